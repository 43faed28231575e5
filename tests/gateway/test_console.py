"""The console's files: served with their kinds and the policy, small, and without any way to run
text. What they do is tested in Chromium (tests/reference/test_console.py)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from aiohttp import web

from services.gateway.keys import Key, hash_of, write_keys
from services.gateway.pages import KINDS, POLICY, STATIC
from tests.gateway.conftest import Stage

CONSOLE = STATIC / "console"
FILES = sorted(path for path in CONSOLE.rglob("*") if path.is_file())
MODULES = [path for path in FILES if path.suffix == ".js"]
MAX_LINES = 330
RUNS_TEXT = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|"
    r"createContextualFragment|setAttribute\(.style|javascript:"
)


def name(path: Path) -> str:
    return path.relative_to(CONSOLE).as_posix()


@pytest.fixture
def gateway_settings(tmp_path: Path) -> dict[str, object]:
    file = tmp_path / "keys.json"
    write_keys(file, [Key("reader", hash_of("qk-a-secret"))])
    return {"keys": file}


async def test_it_is_at_the_root_open_without_a_key(stage: Stage) -> None:
    async with stage.http.get(stage.url + "/") as response:
        assert (response.status, response.content_type) == (200, "text/html")
        assert response.headers["Content-Security-Policy"] == POLICY
        assert await response.read() == (CONSOLE / "index.html").read_bytes()
    async with stage.http.get(stage.url + "/v1/status") as response:
        assert response.status == 401


async def test_each_file_is_served_with_its_kind_and_the_policy(stage: Stage) -> None:
    parts = [path for path in FILES if path.name != "index.html"]
    assert {path.suffix for path in parts} == {".js", ".css", ".svg"}
    for path in parts:
        async with stage.http.get(f"{stage.url}/static/console/{name(path)}") as response:
            assert response.status == 200, path
            assert response.content_type == KINDS[path.suffix]
            assert response.headers["Content-Security-Policy"] == POLICY
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert await response.read() == path.read_bytes()


def test_the_policy_allows_no_inline_script_or_style() -> None:
    policy = dict(part.strip().split(" ", 1) for part in POLICY.split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in POLICY


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_is_short_says_what_it_is_for_and_runs_no_text(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= MAX_LINES
    assert source.startswith("/*")
    assert not RUNS_TEXT.search(source)


async def test_there_is_no_way_out_of_the_folder(stage: Stage) -> None:
    for path in ("..%2Fdocs%2Fdocs.js", "lib/..%2F..%2F..%2Fpages.py", "lib", "index.html"):
        async with stage.http.get(f"{stage.url}/static/console/{path}") as response:
            assert response.status == web.HTTPNotFound.status_code, path
