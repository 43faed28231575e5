"""Keys at the door: who comes in, for what, how often, over real HTTP."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from services.gateway.keys import Keys, hash_of, main, read_keys
from shared.errors import ConfigError
from shared.messages import Finished, GenerateRequest
from shared.service import Terminal
from tests.gateway.conftest import REPORT, ScriptedVerifier, Stage

ASK = {"prompt": "Say", "max_tokens": 50}
PATH = "/v1/completions"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    assert main([str(path), "add", "first"]) == 0
    return path


@pytest.fixture
def gateway_settings(file: Path) -> dict[str, object]:
    return {"keys": file}


def made(file: Path, capsys: pytest.CaptureFixture[str], name: str, *more: str) -> str:
    capsys.readouterr()
    assert main([str(file), "add", name, *more]) == 0
    return capsys.readouterr().out.strip()


def spoilt(file: Path) -> None:
    file.write_text("{")


async def ask(
    stage: Stage, secret: str | None, path: str = PATH, body: object = ASK
) -> tuple[int, dict, Mapping[str, str]]:
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    async with stage.http.post(stage.url + path, json=body, headers=headers) as response:
        return response.status, await response.json(), response.headers


async def test_only_health_is_open(stage: Stage) -> None:
    for path in ("/health/live", "/health/ready", "/v2/health/live"):
        async with stage.http.get(stage.url + path) as response:
            assert response.status == 200, path
    for path in (
        "/metrics",
        "/v1/models",
        "/v1/info",
        "/v1/status",
        "/v2",
        "/nothing",
        "/health/live/../../v1",
    ):
        async with stage.http.get(stage.url + path) as response:
            assert response.status == 401, path
            assert response.headers["WWW-Authenticate"] == "Bearer"
    status, body, _ = await ask(stage, None)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    assert "Authorization: Bearer KEY" in body["error"]["message"]
    assert not stage.verifier.requests


@pytest.mark.parametrize("secret", ["qk-wrong", "", "\u00e9", "first key"])
async def test_a_wrong_key_is_a_401(stage: Stage, secret: str) -> None:
    status, body, _ = await ask(stage, secret)
    assert status == 401
    assert body["error"]["code"] == "invalid_api_key"
    assert not secret or secret not in body["error"]["message"]


async def test_a_key_comes_in_and_the_file_knows_its_hash_alone(
    stage: Stage, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = made(file, capsys, "alice")
    assert len(secret) > 40
    assert (await ask(stage, secret))[0] == 200
    assert secret not in str(read_keys(file))
    assert read_keys(file)[1].sha256 == hash_of(secret)
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600


async def test_a_revoked_key_is_refused_without_a_restart(
    stage: Stage, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = made(file, capsys, "bob")
    assert (await ask(stage, secret))[0] == 200
    assert main([str(file), "revoke", "bob"]) == 0
    status, body, _ = await ask(stage, secret)
    assert (status, body["error"]["message"]) == (401, "this key is not known, or has been revoked")


async def test_a_broken_file_leaves_the_keys_as_they_were(
    stage: Stage, file: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    secret = made(file, capsys, "carol")
    assert (await ask(stage, secret))[0] == 200
    for spoil in (spoilt, Path.unlink):
        spoil(file)
        assert (await ask(stage, secret))[0] == 200
    assert "the keys stay as they were" in caplog.text


async def test_rights_say_what_a_key_may_ask_for(
    stage: Stage, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = made(file, capsys, "ranker", "--rights", "recommend")
    for path, needed in ((PATH, "generate"), ("/v1/recommenders/shop/rows", "write")):
        status, body, _ = await ask(stage, secret, path)
        assert (status, body["error"]["code"]) == (403, "insufficient_permissions")
        assert f"key 'ranker' may not {needed}; it may recommend" in body["error"]["message"]
    status, body, _ = await ask(stage, secret, "/v1/recommendations", {})
    assert (status, body["error"]["code"]) == (503, "unavailable")


async def test_requests_a_minute(
    stage: Stage, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = made(file, capsys, "slow", "--requests-per-minute", "2")
    lefts = [(await ask(stage, secret))[2]["x-ratelimit-remaining-requests"] for _ in range(2)]
    assert lefts == ["1", "0"]
    status, body, headers = await ask(stage, secret)
    assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
    assert "this key has used its 2 requests a minute" in body["error"]["message"]
    assert 25 <= int(headers["Retry-After"]) <= 30
    assert headers["x-ratelimit-limit-requests"] == "2"
    other = made(file, capsys, "other")
    assert (await ask(stage, other))[0] == 200


async def test_tokens_a_minute_are_those_that_came(
    stage: Stage, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = made(file, capsys, "frugal", "--tokens-per-minute", "200")
    _, body, _ = await ask(stage, secret)
    used = body["usage"]["total_tokens"]
    async with stage.http.post(
        f"{stage.url}{PATH}",
        json={**ASK, "stream": True},
        headers={"Authorization": f"Bearer {secret}"},
    ) as response:
        reserved = used - body["usage"]["completion_tokens"] + ASK["max_tokens"]
        left = int(response.headers["x-ratelimit-remaining-tokens"])
        assert 200 - used - reserved <= left <= 201 - used - reserved
        await response.read()
    status, body, headers = await ask(stage, secret, PATH, {**ASK, "max_tokens": 240})
    assert status == 429
    assert "this key has 200 a minute" in body["error"]["message"]
    assert 200 - 2 * used <= int(headers["x-ratelimit-remaining-tokens"]) <= 202 - 2 * used


async def test_requests_at_a_time(
    stage: Stage, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = made(file, capsys, "narrow", "--max-in-flight", "1")
    begun, released = asyncio.Event(), asyncio.Event()

    async def wait(verifier: ScriptedVerifier, request: GenerateRequest) -> Terminal:
        begun.set()
        await released.wait()
        return Finished(request.request_id, 0, "stop", REPORT)

    stage.verifier.script = wait
    first = asyncio.create_task(ask(stage, secret))
    await begun.wait()
    status, body, _ = await ask(stage, secret)
    assert status == 429
    assert "1 requests of this key are in flight" in body["error"]["message"]
    released.set()
    assert (await first)[0] == 200
    assert (await ask(stage, secret))[0] == 200


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "Invalid JSON"),
        ('{"keys": [{"name": "a", "sha256": "1"}]}', "keys.0.sha256"),
        ('{"keys": [{"name": "a"}]}', "keys.0.sha256: Field required"),
        ('{"keys": [], "more": 1}', "more"),
    ],
)
def test_a_file_that_is_wrong_stops_the_start(tmp_path: Path, content: str, sentence: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match=sentence):
        Keys(file)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        Keys(tmp_path / "none.json")


def test_the_command_lists_and_refuses(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(file, capsys, "team", "--tokens-per-minute", "5000", "--rights", "generate", "write")
    assert main([str(file), "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["first", "generate,", "recommend", "no", "limits"]
    assert lines[1].split() == ["team", "generate,", "write", "5000", "tokens/min"]
    for command, sentence in (
        (["add", "team"], "there is a key 'team' already"),
        (["add", "a b"], "'a b' is no name"),
        (["add", "x", "--max-in-flight", "0"], "a limit is at least 1"),
        (["revoke", "nobody"], "there is no key 'nobody'; there are first, team"),
    ):
        assert main([str(file), *command]) == 1
        assert sentence in capsys.readouterr().err
    assert [key.name for key in read_keys(file)] == ["first", "team"]
