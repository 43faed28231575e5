"""Containers load a target that is added to their folder of models, with its draft model."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from models import library
from tests.e2e.stack import ROOT, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(600)]

SERVICES = ("gateway", "verifier", "voter", "drafter-lookup")
SHIPPED = ROOT / "models"
BODY = {"prompt": "def read_lines(path):\n", "max_tokens": 24, "temperature": 0}
PATIENCE_S = 60.0


def quiet(_: str) -> None:
    """What the library says of its work."""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A copy of the shipped ones, which containers may read."""
    folder = tmp_path / "models"
    shutil.copytree(SHIPPED, folder, ignore=shutil.ignore_patterns("*.py", "train*"))
    for path in (tmp_path.parent, tmp_path, folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


@pytest.fixture
async def url(models: Path) -> AsyncIterator[str]:
    stack = Stack({}, ROOT / "deploy" / "drafters.yml")
    up = ("up", "-d", "--build", "--wait", "--wait-timeout", "180", *SERVICES)
    try:
        await asyncio.to_thread(stack.compose, *up, MODELS=str(models))
        (url,) = stack.gateways()
        yield url
    finally:
        await asyncio.to_thread(stack.down)


async def ask(http: aiohttp.ClientSession, url: str, model: str) -> tuple[int, str]:
    async with http.post(f"{url}/v1/completions", json={**BODY, "model": model}) as response:
        answer = await response.json()
        return response.status, answer["choices"][0]["text"] if response.ok else json.dumps(answer)


async def until_listed(
    http: aiohttp.ClientSession, url: str, expected: dict[str, set[str]]
) -> None:
    """Waits for just these targets, each with a verifier and just these draft models."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with http.get(f"{url}/v1/models") as response:
                entries = (await response.json())["data"]
            found = {e["id"]: set(e["drafters"]) for e in entries if e.get("verifiers")}
            if found == expected:
                return
            await asyncio.sleep(0.2)  # nobody tells when a container has looked


async def test_containers_follow_the_list(models: Path, url: str) -> None:
    own = {"quorum-draft-small", "quorum-draft-wide", "ngram", "suffix"}
    async with aiohttp.ClientSession() as http:
        await until_listed(http, url, {"quorum-6m": own})
        _, expected = await ask(http, url, "quorum-6m")
        await asyncio.to_thread(
            library.add,
            str(SHIPPED / "quorum-6m"),
            [f"mine-draft={SHIPPED / 'quorum-draft-small'}"],
            models,
            name="mine",
            say=quiet,
        )
        added = {"quorum-6m": own, "mine": {"mine-draft", "ngram", "suffix"}}
        await until_listed(http, url, added)
        assert await ask(http, url, "mine") == (200, expected)
        await asyncio.to_thread(library.remove, "mine", models)
        await until_listed(http, url, {"quorum-6m": own})
        status, text = await ask(http, url, "mine")
        assert (status, "there is quorum-6m" in text) == (404, True)
