"""DELETE /v1/requests/{id}: of one gateway, of another over real Redis, and whose it is."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from services.gateway.config import GatewayConfig
from services.gateway.keys import main
from services.gateway.service import GatewayService
from services.gateway.text import TextModel
from shared.bus import connect
from shared.config import BusConfig
from shared.messages import GenerateRequest
from shared.service import Terminal
from tests.gateway.conftest import ScriptedVerifier, Stage, wait_for_cancel
from tests.redis_server import RedisServer
from tests.system import running

PATH = "/v1/completions"


async def delete(http: aiohttp.ClientSession, url: str, name: str, **headers: str) -> tuple:
    async with http.delete(f"{url}/v1/requests/{name}", headers=headers) as response:
        return response.status, await response.json()


@asynccontextmanager
async def streaming(
    http: aiohttp.ClientSession, url: str, name: str, **more: object
) -> AsyncIterator[aiohttp.ClientResponse]:
    """An open stream that has said something."""
    headers = {"x-request-id": name}
    body = {"prompt": "x", "stream": True, **more}
    async with http.post(url + PATH, json=body, headers=headers) as response:
        assert response.headers["x-request-id"] == name
        assert (await response.content.readline()).startswith(b"data: {")
        yield response


async def ending(response: aiohttp.ClientResponse) -> dict:
    """The one event that ends the stream, before [DONE]."""
    *before, last, done = (await response.text()).strip().split("\n\n")
    assert done == "data: [DONE]"
    assert not any("error" in line for line in before)
    return json.loads(last.removeprefix("data: "))["error"]


async def test_a_stream_ends_with_one_error_event_and_its_work_is_cancelled(stage: Stage) -> None:
    stage.verifier.script = wait_for_cancel
    async with streaming(stage.http, stage.url, "mine", n=3) as response:
        assert await delete(stage.http, stage.url, "mine") == (200, {"id": "mine", "cancelled": 3})
        error = await asyncio.wait_for(ending(response), 5)
        assert (error["code"], error["type"]) == ("cancelled", "cancelled_error")
        assert error["message"] == "the request was cancelled"
    cancelled = {await asyncio.wait_for(stage.verifier.cancelled.get(), 5) for _ in range(3)}
    assert cancelled == {request.request_id for request in stage.verifier.requests}
    status, body = await delete(stage.http, stage.url, "mine")
    assert (status, body["error"]["code"]) == (404, "request_not_found")
    async with stage.http.get(stage.url + "/v1/status") as told:
        assert (await told.json())["in_flight"] == 0


async def test_a_waiting_client_gets_a_499(stage: Stage) -> None:
    begun = asyncio.Event()

    async def begin(verifier: ScriptedVerifier, request: GenerateRequest) -> Terminal:
        begun.set()
        return await wait_for_cancel(verifier, request)

    stage.verifier.script = begin
    asked = asyncio.create_task(
        stage.http.post(stage.url + PATH, json={"prompt": "x"}, headers={"x-request-id": "a"})
    )
    await begun.wait()
    assert await delete(stage.http, stage.url, "a") == (200, {"id": "a", "cancelled": 1})
    response = await asyncio.wait_for(asked, 5)
    assert response.status == 499
    assert (await response.json())["error"]["code"] == "cancelled"
    assert response.headers["x-request-id"] == "a"


async def test_what_nobody_has_taken_yet_is_cancelled_too(stage: Stage) -> None:
    """It waits behind 64 others."""
    sixty_four = asyncio.Event()

    async def count(verifier: ScriptedVerifier, request: GenerateRequest) -> Terminal:
        if len(verifier.requests) == 64:
            sixty_four.set()
        return await wait_for_cancel(verifier, request)

    stage.verifier.script = count
    async with AsyncExitStack() as stack:
        for number in range(4):
            await stack.enter_async_context(
                streaming(stage.http, stage.url, f"busy-{number}", n=16)
            )
        await asyncio.wait_for(sixty_four.wait(), 10)
        headers = {"x-request-id": "w"}
        waiting = asyncio.create_task(
            stage.http.post(stage.url + PATH, json={"prompt": "x"}, headers=headers)
        )
        while (await delete(stage.http, stage.url, "w"))[0] != 200:
            pass
        assert (await waiting).status == 499
        cancelled = await asyncio.wait_for(stage.verifier.cancelled.get(), 5)
        taken = {request.request_id for request in stage.verifier.requests}
        assert len(taken) == 64
        assert cancelled not in taken


async def test_requests_of_one_id_all_end(stage: Stage) -> None:
    stage.verifier.script = wait_for_cancel
    async with (
        streaming(stage.http, stage.url, "same") as one,
        streaming(stage.http, stage.url, "same") as two,
        streaming(stage.http, stage.url, "other"),
    ):
        assert await delete(stage.http, stage.url, "same") == (
            200,
            {"id": "same", "cancelled": 2},
        )
        for response in (one, two):
            assert (await asyncio.wait_for(ending(response), 5))["code"] == "cancelled"
        assert await delete(stage.http, stage.url, "other") == (
            200,
            {"id": "other", "cancelled": 1},
        )


@pytest.mark.parametrize("name", ["nobody", "%00", "..%2f..", "%ff", "a" * 5000, "x%0d%0ay"])
async def test_an_unknown_id_is_a_404(stage: Stage, name: str) -> None:
    status, body = await delete(stage.http, stage.url, name)
    assert status == 404
    assert len(body["error"]["message"]) < 1000


class TestKeys:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / "keys.json"

    @pytest.fixture
    def secrets(self, file: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
        made = {}
        for name in ("alice", "bob"):
            assert main([str(file), "add", name, "--requests-per-minute", "1"]) == 0
            made[name] = f"Bearer {capsys.readouterr().out.strip()}"
        return made

    @pytest.fixture
    def gateway_settings(self, secrets: dict[str, str], file: Path) -> dict[str, object]:
        assert secrets
        return {"keys": file}

    async def test_a_key_ends_its_own_requests_alone(
        self, stage: Stage, secrets: dict[str, str]
    ) -> None:
        stage.verifier.script = wait_for_cancel
        asked = {"x-request-id": "hers", "Authorization": secrets["alice"]}
        body = {"prompt": "x", "stream": True}
        async with stage.http.post(stage.url + PATH, json=body, headers=asked) as response:
            await response.content.readline()
            assert (await delete(stage.http, stage.url, "hers"))[0] == 401
            theirs = await delete(stage.http, stage.url, "hers", Authorization=secrets["bob"])
            assert (theirs[0], theirs[1]["error"]["code"]) == (404, "request_not_found")
            # It does not count as a request: her one of this minute runs.
            hers = await delete(stage.http, stage.url, "hers", Authorization=secrets["alice"])
            assert hers == (200, {"id": "hers", "cancelled": 1})
            assert (await asyncio.wait_for(ending(response), 5))["code"] == "cancelled"


@pytest.fixture
async def pair(
    redis_server: RedisServer, model_folder: Path, text_model: TextModel
) -> AsyncIterator[list[Stage]]:
    """Two gateways, each with connections of its own, and one verifier."""
    bus_config = BusConfig(url=redis_server.url, key_prefix=uuid.uuid4().hex, lease_s=1.0)
    buses = [connect(bus_config) for _ in range(3)]
    config = GatewayConfig(port=0, model=model_folder)
    gateways = [GatewayService(config, bus, bus_config) for bus in buses[:2]]
    verifier = ScriptedVerifier(buses[2], bus_config, text_model)
    async with running(verifier, *gateways), aiohttp.ClientSession() as http:
        yield [Stage(http, gateway, verifier, text_model) for gateway in gateways]
    for bus in buses:
        await bus.close()


async def test_any_gateway_ends_what_another_has(pair: list[Stage]) -> None:
    here, there = pair
    here.verifier.script = wait_for_cancel
    async with streaming(here.http, here.url, "far", n=2) as response:
        assert (await delete(there.http, there.url, "near"))[0] == 404
        assert await delete(there.http, there.url, "far") == (200, {"id": "far", "cancelled": 2})
        assert (await asyncio.wait_for(ending(response), 5))["code"] == "cancelled"
    cancelled = {await asyncio.wait_for(here.verifier.cancelled.get(), 5) for _ in range(2)}
    assert cancelled == {request.request_id for request in here.verifier.requests}
    assert (await delete(there.http, there.url, "far"))[0] == 404


async def test_a_gateway_that_is_dead_holds_nobody_up_for_long(pair: list[Stage]) -> None:
    here, there = pair
    ghost = here.gateway.instance_id + ".ghost"
    instance = here.gateway.registry.live("gateway")[0]
    bus = here.gateway.bus
    await bus.announce([type(instance)(ghost, "gateway", "x", ghost, {})], 30)
    here.verifier.script = wait_for_cancel
    async with streaming(here.http, here.url, "far") as response:
        async with asyncio.timeout(5):
            assert await delete(there.http, there.url, "far") == (
                200,
                {"id": "far", "cancelled": 1},
            )
        assert (await asyncio.wait_for(ending(response), 5))["code"] == "cancelled"
    await bus.withdraw([ghost])
