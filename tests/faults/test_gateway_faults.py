"""What the users of a gateway see of faults, with the shipped models: nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from shared.bus import connect
from shared.config import BusConfig, load
from tests.processes import Fleet, Process, fleet
from tests.redis_cluster import Watched
from tests.redis_server import RedisServer, free_port

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

NUM_REQUESTS, NUM_TOKENS = 100, 24


@dataclass
class Scene:
    """A whole system of processes, its gateway, and who may be broken."""

    fleet: Fleet
    url: str
    gateway: Process
    verifier: Process

    async def ask(self, http: aiohttp.ClientSession, number: int) -> str:
        """One streamed completion; its text. Raises if there is no whole answer, or two."""
        body = {
            "prompt": f"def function_{number}(self):\n    ",
            "max_tokens": NUM_TOKENS,
            "temperature": 0.8 if number % 2 else 0,
            "seed": number,
            "ignore_eos": True,
            "stream": True,
        }
        async with http.post(f"{self.url}/v1/completions", json=body) as response:
            assert response.status == 200, await response.text()
            events = [line[6:] async for line in response.content if line.startswith(b"data: ")]
        assert events[-1].strip() == b"[DONE]"
        choices = [json.loads(event)["choices"][0] for event in events[:-1]]
        reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
        assert reasons == ["length"], events
        return "".join(choice["text"] for choice in choices)

    async def ask_all(self, http: aiohttp.ClientSession) -> list[str]:
        return await asyncio.gather(*(self.ask(http, n) for n in range(NUM_REQUESTS)))


@asynccontextmanager
async def system(logs: Path, **bus_settings: str) -> AsyncIterator[Scene]:
    """Every service a process of its own, on the Redis of BUS_* settings."""
    port = free_port()
    environment = {
        "BUS_LEASE_S": "2",
        "BUS_DELIVERY_LEASE_S": "3",
        **bus_settings,
        "VERIFIER_NUM_THREADS": "1",
        "GATEWAY_PORT": str(port),
    }
    bus = connect(load(BusConfig, environment))
    async with fleet(bus, environment, logs) as processes:
        processes.start("drafter", DRAFTER_MODELS="models/quorum-draft-small,ngram")
        processes.start("voter")
        verifier = processes.start("verifier")
        gateway = processes.start("gateway")
        await processes.live(drafter=2, voter=1, verifier=1, gateway=1)
        yield Scene(processes, f"http://127.0.0.1:{port}", gateway, verifier)
    await bus.close()


@pytest.fixture
async def scene(own_redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Scene]:
    async with system(tmp_path, BUS_URL=own_redis_server.url) as scene:
        yield scene


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=2 * NUM_REQUESTS)
    async with aiohttp.ClientSession(
        connector=connector, timeout=aiohttp.ClientTimeout(total=120)
    ) as http:
        yield http


async def half_done(asked: list[asyncio.Task[str]]) -> None:
    """Waits until the first few answers are there, and most are not."""
    while sum(task.done() for task in asked) < 5:
        await asyncio.wait([t for t in asked if not t.done()], return_when=asyncio.FIRST_COMPLETED)


async def test_a_killed_verifier_changes_no_answer_and_repeats_none(
    scene: Scene, http: aiohttp.ClientSession
) -> None:
    faultless = await scene.ask_all(http)
    scene.fleet.start("verifier")
    await scene.fleet.live(verifier=2)
    asked = [asyncio.create_task(scene.ask(http, n)) for n in range(NUM_REQUESTS)]
    await half_done(asked)
    scene.verifier.kill()
    assert await asyncio.gather(*asked) == faultless


async def test_a_gateway_that_is_told_to_end_answers_all_it_has_let_in(
    scene: Scene, http: aiohttp.ClientSession
) -> None:
    asked = [asyncio.create_task(scene.ask(http, n)) for n in range(NUM_REQUESTS)]
    await half_done(asked)
    code, texts = await asyncio.gather(scene.gateway.terminate(), asyncio.gather(*asked))
    assert code == 0
    assert all(texts)


async def test_a_failover_of_redis_changes_no_answer_and_loses_none(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    watched = Watched(tmp_path)
    try:
        await watched.start()
        settings = {"BUS_URL": watched.url, "BUS_SENTINEL_MASTER": Watched.NAME}
        # What a failover loses is published again after a silence.
        async with system(tmp_path, GATEWAY_SILENCE_S="5", **settings) as scene:
            faultless = await scene.ask_all(http)
            asked = [asyncio.create_task(scene.ask(http, n)) for n in range(NUM_REQUESTS)]
            await half_done(asked)
            watched.master.kill()
            assert await asyncio.gather(*asked) == faultless
    finally:
        watched.kill()
