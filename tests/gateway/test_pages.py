"""Pages: their own files alone, strictly served, and open where routes ask for a key."""

from __future__ import annotations

import re
from asyncio import open_connection
from pathlib import Path

import pytest
from aiohttp import web

from services.gateway.keys import Key, hash_of, write_keys
from services.gateway.pages import POLICY, STATIC, add_page
from tests.gateway.conftest import Stage

SECRET = "qk-a-secret"
FILES = sorted(path for path in STATIC.rglob("*") if path.is_file())


@pytest.fixture
def gateway_settings(tmp_path: Path) -> dict[str, object]:
    file = tmp_path / "keys.json"
    write_keys(file, [Key("reader", hash_of(SECRET), rights=())])
    return {"keys": file}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/docs", "text/html"),
        ("/static/docs/docs.js", "text/javascript"),
        ("/static/docs/docs.css", "text/css"),
        ("/static/docs/icon.svg", "image/svg+xml"),
    ],
)
async def test_a_page_is_served_strictly_without_a_key(stage: Stage, path: str, kind: str) -> None:
    async with stage.http.get(stage.url + path) as response:
        assert (response.status, response.content_type) == (200, kind)
        assert response.headers["Content-Security-Policy"] == POLICY
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["x-request-id"]
        name = "index.html" if path == "/docs" else path.rpartition("/")[2]
        assert await response.read() == (STATIC / "docs" / name).read_bytes()
        etag = response.headers["ETag"]
    async with stage.http.get(stage.url + path, headers={"If-None-Match": etag}) as response:
        assert (response.status, await response.read()) == (304, b"")
        assert response.headers["Content-Security-Policy"] == POLICY
    async with stage.http.get(stage.url + path, headers={"If-None-Match": '"older"'}) as response:
        assert response.status == 200


async def test_the_document_asks_for_a_key_as_routes_do(stage: Stage) -> None:
    url = stage.url + "/openapi.json"
    async with stage.http.get(url) as response:
        assert response.status == 401
    async with stage.http.get(url, headers={"Authorization": f"Bearer {SECRET}"}) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    "name",
    ["../docs/docs.js", "..%2f..%2fpages.py", "%2e%2e/pages.py", "index.html", "nothing.js",
     "/etc/passwd", "docs.js%00", "docs.js/"],
)  # fmt: skip
async def test_only_files_of_the_page_are_found(stage: Stage, name: str) -> None:
    host, port = "127.0.0.1", stage.gateway.port
    reader, writer = await open_connection(host, port)
    head = f"GET /static/docs/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    writer.write(head.encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.split()[1] in (b"400", b"401", b"404"), answer


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(STATIC).as_posix())
def test_a_page_asks_nobody_else_and_runs_no_text(path: Path) -> None:
    text = path.read_text()
    outside = set(re.findall(r"https?://[^\s\"'<>`)]+", text))
    assert outside <= {"http://www.w3.org/2000/svg", "http://127.0.0.1:8080"}, outside
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)
    if path.suffix == ".html":
        assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", text)


def test_every_file_that_a_page_names_is_there() -> None:
    for path in FILES:
        for name in re.findall(r'(?:src|href)="/static/([^"]+)"', path.read_text()):
            assert (STATIC / name).is_file(), f"{path.name} names {name}"
        for name in re.findall(r'from "(\./[^"]+|\.\./[^"]+)"', path.read_text()):
            assert (path.parent / name).is_file(), f"{path.name} imports {name}"


def test_a_file_of_an_unknown_kind_is_not_served(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "notes.exe").write_text("")
    with pytest.raises(KeyError, match=r"\.exe"):
        add_page(web.Application(), "/", tmp_path)
