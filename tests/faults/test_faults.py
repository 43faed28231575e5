"""Each service a process of its own over Redis, broken while 100 requests are in flight.

Whatever breaks: every request gets exactly one terminal message, and every text equals that of the
faultless run.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from redis.asyncio import Redis

from shared.bus import Bus, Instance, connect
from shared.bus.redis import RedisBus
from shared.config import BusConfig
from shared.generation import Sampling
from shared.lm.decoder import load_decoder
from shared.messages import DraftRequest, Finished, Proposal
from shared.topics import generate_requests
from shared.wire import replace
from tests.processes import Fleet, Process, fleet
from tests.redis_server import RedisServer
from tests.system import Answer, Client, decode_plainly
from tests.toy import VOCAB_SIZE, write_toy

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

NUM_REQUESTS, NUM_TOKENS = 100, 40
TAKEOVER_S = 10.0
SAMPLINGS = (Sampling(temperature=0.0), Sampling(temperature=0.8))


@dataclass(frozen=True)
class Work:
    """The models, the requests, and the texts of the faultless run."""

    folder: Path
    prompts: list[list[int]]
    samplings: list[Sampling]
    texts: list[list[int]]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp("models")
    for name, noise in (("target", 0.0), ("small", 0.08), ("wide", 0.05)):
        write_toy(folder / name, noise=noise)
    rng = np.random.default_rng(3)
    prompts = [
        rng.integers(2, VOCAB_SIZE, rng.integers(4, 50)).tolist() for _ in range(NUM_REQUESTS)
    ]
    samplings = [
        replace(SAMPLINGS[number % len(SAMPLINGS)], seed=number) for number in range(NUM_REQUESTS)
    ]
    decoder = load_decoder(folder / "target", max_slots=1, num_threads=1)
    texts = [
        decode_plainly(decoder, prompt, NUM_TOKENS, sampling)
        for prompt, sampling in zip(prompts, samplings, strict=True)
    ]
    return Work(folder, prompts, samplings, texts)


@dataclass
class Scene:
    """A running system of processes, and the requests in flight."""

    fleet: Fleet
    client: Client
    work: Work
    server: RedisServer
    bus: Bus
    drafters: list[Process]
    voter: Process
    verifier: Process
    answers: list[Answer]

    def more(self, service: str, **environment: str) -> Process:
        return self.fleet.start(service, **environment)

    async def submit(self) -> None:
        for prompt, sampling in zip(self.work.prompts, self.work.samplings, strict=True):
            _, answer = await self.client.submit(prompt, NUM_TOKENS, sampling)
            self.answers.append(answer)

    async def progress(self, count: int = 5) -> None:
        """Waits until some requests have ended and most have not: the moment to break things."""
        for _ in range(count):
            await asyncio.wait_for(self.client.endings.get(), 60)

    async def settle(self) -> None:
        """All ended, each once, with the faultless texts."""
        ended = asyncio.gather(*(answer.ended.wait() for answer in self.answers))
        try:
            await asyncio.wait_for(ended, 90)
        except TimeoutError:
            hanging = sum(not answer.ended.is_set() for answer in self.answers)
            pytest.fail(f"{hanging} requests hang\n{self.fleet.outputs()}")
        for answer, text in zip(self.answers, self.work.texts, strict=True):
            (terminal,) = answer.terminals[:1]
            assert isinstance(terminal, Finished), terminal
            assert answer.tokens == text
        assert await self.bus.lag(generate_requests("target")) == 0


@pytest.fixture
async def scene(work: Work, own_redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Scene]:
    config = BusConfig(url=own_redis_server.url, lease_s=2.0, delivery_lease_s=3.0, retry_s=30)
    environment = {
        "BUS_URL": config.url,
        "BUS_LEASE_S": str(config.lease_s),
        "BUS_DELIVERY_LEASE_S": str(config.delivery_lease_s),
        "VERIFIER_MODEL": str(work.folder / "target"),
        "VERIFIER_MAX_BATCH": "8",
        "VERIFIER_NUM_THREADS": "1",
        "QUORUM_DRAIN_TIMEOUT_S": "20",
    }
    bus = connect(config)
    async with fleet(bus, environment, tmp_path) as processes:
        drafters = [
            processes.start("drafter", DRAFTER_MODELS=str(work.folder / "small")),
            processes.start("drafter", DRAFTER_MODELS=f"{work.folder / 'wide'},ngram"),
        ]
        voter = processes.start("voter")
        verifier = processes.start("verifier")
        await processes.live(drafter=3, voter=1, verifier=1)
        client = Client(bus, "target")
        async with client.connected():
            yield Scene(
                processes, client, work, own_redis_server, bus, drafters, voter, verifier, []
            )
    await bus.close()


async def kill_a_drafter(scene: Scene) -> None:
    scene.drafters[0].kill()


async def kill_all_drafters(scene: Scene) -> None:
    for drafter in scene.drafters:
        drafter.kill()


async def kill_the_voter(scene: Scene) -> None:
    scene.voter.kill()


async def kill_the_voter_of_two(scene: Scene) -> None:
    scene.more("voter")
    await scene.fleet.live(voter=2)
    scene.voter.kill()


async def terminate_a_drafter(scene: Scene) -> None:
    assert await scene.drafters[0].terminate() == 0


async def terminate_the_voter(scene: Scene) -> None:
    assert await scene.voter.terminate() == 0


async def terminate_the_verifier(scene: Scene) -> None:
    scene.more("verifier")
    assert await scene.verifier.terminate() == 0


async def restart_redis(scene: Scene) -> None:
    await asyncio.to_thread(scene.server.stop)
    await asyncio.to_thread(scene.server.start)


async def pause_a_drafter(scene: Scene) -> None:
    scene.drafters[0].pause()


FAULTS: list[Callable[[Scene], Awaitable[None]]] = [
    kill_a_drafter,
    kill_all_drafters,
    kill_the_voter,
    kill_the_voter_of_two,
    terminate_a_drafter,
    terminate_the_voter,
    terminate_the_verifier,
    restart_redis,
    pause_a_drafter,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_no_request_is_lost_or_changed(
    scene: Scene, fault: Callable[[Scene], Awaitable[None]]
) -> None:
    await scene.submit()
    await scene.progress()
    await fault(scene)
    await scene.settle()
    assert all(len(answer.terminals) == 1 for answer in scene.answers)


async def test_a_second_verifier_takes_over_within_ten_seconds(scene: Scene) -> None:
    scene.more("verifier")
    await scene.fleet.live(verifier=2)
    await scene.submit()
    await scene.progress()
    scene.verifier.kill()
    killed = time.monotonic()
    orphans = [a for a in scene.answers if a.senders and not a.ended.is_set()]
    before = {id(answer): len(answer.senders) for answer in orphans}
    while any(len(a.senders) == before[id(a)] and not a.ended.is_set() for a in orphans):
        assert time.monotonic() - killed < TAKEOVER_S, scene.fleet.outputs()
        await asyncio.wait_for(scene.client.endings.get(), TAKEOVER_S)
    await scene.settle()
    assert all(len(answer.terminals) == 1 for answer in scene.answers)


async def test_a_frozen_verifier_that_comes_back_changes_nothing(scene: Scene) -> None:
    scene.more("verifier")
    await scene.fleet.live(verifier=2)
    await scene.submit()
    await scene.progress()
    scene.verifier.pause()
    await scene.fleet.live(verifier=1)
    scene.verifier.resume()
    await scene.settle()


async def test_drafters_that_lie_babble_or_dawdle_change_nothing(scene: Scene) -> None:
    """A drafter of the test's own that answers wrong, late, twice and with garbage."""
    name = "liar"
    rng = random.Random(0)

    async def lie() -> None:
        instance = Instance(f"drafter.{name}.1", "drafter", name, f"drafter.{name}.1", {})
        async with scene.bus.receive(instance.inbox) as messages:
            renewing = asyncio.create_task(renew(instance))
            late: list[tuple[str, Proposal]] = []
            try:
                async for message in messages:
                    if not isinstance(message, DraftRequest):
                        continue
                    for voter, proposal in [
                        *late[-1:],
                        *((message.voter, p) for p in lies(message)),
                    ]:
                        await scene.bus.send([voter], proposal)
                    assert isinstance(scene.bus, RedisBus)
                    await scene.bus.send_bytes([message.voter, message.reply_to], b"\x00garbage")
                    late.append((message.voter, next(lies(message))))
            finally:
                renewing.cancel()

    async def renew(instance: Instance) -> None:
        while True:
            await scene.bus.announce([instance], 2.0)
            await asyncio.sleep(0.5)

    def lies(request: DraftRequest) -> Iterator[Proposal]:
        length = request.speculation_length
        wrong = [rng.randrange(VOCAB_SIZE) for _ in range(length)]
        sure = [9.0] * length
        yield Proposal(request.request_id, request.round, name, wrong, sure, 0, 0.0, True)
        yield Proposal(request.request_id, request.round, name, [-5, 10**9], sure, 0, 0.0, True)
        yield Proposal(request.request_id, request.round, name, wrong * 50, sure * 50, 0, 0.0, True)
        yield Proposal(request.request_id, request.round - 1, name, wrong, sure, 0, 0.0, True)
        yield Proposal(request.request_id, request.round, "unheard-of", wrong, sure, 0, 0.0, False)

    lying = asyncio.create_task(lie())
    await scene.fleet.live(drafter=4)
    await scene.submit()
    await scene.settle()
    lying.cancel()
    assert all(len(answer.terminals) == 1 for answer in scene.answers)


async def test_duplicated_and_reordered_inbox_messages_change_nothing(scene: Scene) -> None:
    """Old rounds' messages are put into every inbox again, in another order."""
    rng = random.Random(1)
    over = asyncio.Event()  # the Redis client may swallow a cancel

    async def replay() -> None:
        async with Redis.from_url(scene.server.url) as client:
            while not over.is_set():
                seen = []
                async for key in client.scan_iter("{quorum}:inbox:*", count=1000):
                    if b"gateway" not in key:
                        seen += [(key, fields) for _, fields in await client.xrange(key, count=40)]
                rng.shuffle(seen)
                for key, fields in seen[:40]:
                    await client.xadd(key, fields, nomkstream=True)
                await asyncio.sleep(0.02)

    await scene.submit()
    replaying = asyncio.create_task(replay())
    await scene.settle()
    over.set()
    await replaying
    assert all(len(answer.terminals) == 1 for answer in scene.answers)
