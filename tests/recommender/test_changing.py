"""A recommender that changes while it serves: rows that are written, and versions by labels."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY

from services.recommender.arrays import write_tensor
from services.recommender.config import RecommenderConfig
from services.recommender.folder import load_model
from services.recommender.service import RecommenderService
from services.recommender.versions import write_labels
from shared.bus import Bus
from shared.config import BusConfig
from shared.messages import Failed, RecommendRequest, Scores
from shared.tensor_messages import Tensor, WriteRows, Written
from shared.topics import recommend_requests, write_requests
from tests.recommender.toy import DIM, ITEMS, source_of, write_toy
from tests.system import running

Terminal = Scores | Failed | Written


class Client:
    """Asks as a gateway does; each answer goes to who asked."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.inbox = f"gateway.{uuid.uuid4().hex}"
        self.asked: dict[str, asyncio.Future[Terminal]] = {}

    async def read(self) -> None:
        async with self.bus.receive(self.inbox) as messages:
            async for message in messages:
                assert isinstance(message, Terminal)
                if not (asked := self.asked[message.request_id]).done():
                    asked.set_result(message)

    def _new(self) -> str:
        request_id = uuid.uuid4().hex
        self.asked[request_id] = asyncio.get_running_loop().create_future()
        return request_id

    async def _answer(self, request_id: str) -> Terminal:
        async with asyncio.timeout(20):  # wait_for may swallow a cancel in Python 3.11
            return await self.asked[request_id]

    async def scores(self, version: str | None = None) -> Scores | Failed:
        """Of the whole catalogue, without context."""
        request_id, deadline = self._new(), time.time() + 30
        request = RecommendRequest(request_id, self.inbox, {}, ITEMS, 99, deadline, version)
        await self.bus.publish(recommend_requests("toy"), request)
        answer = await self._answer(request_id)
        assert isinstance(answer, Scores | Failed)
        return answer

    async def write(
        self, table: str, rows: list[int], values: np.ndarray, version: str | None = None
    ) -> Written | Failed:
        request_id = self._new()
        numbers = np.array(rows, np.int64)
        request = WriteRows(
            *(request_id, self.inbox, table),
            Tensor("int64", [len(rows)], numbers.tobytes()),
            write_tensor(values.astype(np.float32)),
            *(version, time.time() + 30),
        )
        await self.bus.publish(write_requests("toy"), request)
        answer = await self._answer(request_id)
        assert isinstance(answer, Written | Failed)
        return answer


@pytest.fixture
async def client(bus: Bus) -> AsyncIterator[Client]:
    client = Client(bus)
    reading = asyncio.create_task(client.read())
    yield client
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


@asynccontextmanager
async def serving(
    folder: Path, bus: Bus, bus_config: BusConfig
) -> AsyncIterator[RecommenderService]:
    config = RecommenderConfig(model=folder, poll_s=0.02)
    service = RecommenderService(config, bus, bus_config)
    async with running(service):
        yield service


def by_item(answer: Scores | Failed) -> dict[str, float]:
    assert isinstance(answer, Scores), answer
    return dict(zip(answer.items, answer.scores, strict=True))


def expected(folder: Path, tables: dict[str, np.ndarray]) -> dict[str, float]:
    """By a model that was trained to these tables."""
    source = source_of(folder)
    kept = {name: np.load(source / f"{name}.npy") for name in tables}
    for name, table in tables.items():
        np.save(source / f"{name}.npy", table)
    from services.recommender.planner.profiles import U280
    from services.recommender.restructure import read_source, restructure
    from tests.recommender.toy import ONE

    out = folder.with_name(f"other{uuid.uuid4().hex}")
    restructure(read_source(source), out, U280, ONE, lambda share, what: None)
    for name, table in kept.items():
        np.save(source / f"{name}.npy", table)
    model = load_model(out, slice_rows=64, num_threads=1)
    ranking = model.read({}, ITEMS)
    (scores,) = model.rank([ranking.query])
    return dict(zip(ITEMS, scores.tolist(), strict=True))


async def until(service: RecommenderService, attribute: str, value: str) -> None:
    """The registry shows it."""
    async with asyncio.timeout(20):
        while not any(
            i.attributes.get(attribute) == value for i in service.registry.live("recommender")
        ):
            await service.registry.changed()


async def test_rows_written_are_in_every_replica_and_in_those_that_come_later(
    tmp_path: Path, bus: Bus, bus_config: BusConfig, client: Client
) -> None:
    folder = tmp_path / "toy"
    write_toy(folder)
    item = np.load(source_of(folder) / "item.npy")
    changed = item.copy()
    rng = np.random.default_rng(1)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(serving(folder, bus, bus_config))
        before = by_item(await client.scores())
        assert before == expected(folder, {})
        for row in (1, 5, 1, 7):
            vector = rng.standard_normal((1, DIM))
            changed[row] = vector
            answer = await client.write("item", [row], vector)
            assert isinstance(answer, Written)
            assert answer.num_rows == 1
        wanted = expected(folder, {"item": changed})
        assert wanted != before
        for _ in range(2):  # soon in both: requests are shared out among them
            await reached(client, wanted)
    async with serving(folder, bus, bus_config):
        assert by_item(await client.scores()) == wanted


async def reached(client: Client, wanted: dict[str, float]) -> None:
    """Several answers in a row are what is wanted."""
    in_a_row = 0
    async with asyncio.timeout(20):
        while in_a_row < 8:
            in_a_row = in_a_row + 1 if by_item(await client.scores()) == wanted else 0


async def test_no_answer_mixes_old_and_new_rows(
    tmp_path: Path, bus: Bus, bus_config: BusConfig, client: Client
) -> None:
    folder = tmp_path / "toy"
    write_toy(folder)
    item = np.load(source_of(folder) / "item.npy")
    other = np.random.default_rng(2).standard_normal(item.shape, np.float32)
    states = [expected(folder, {}), expected(folder, {"item": other})]
    seen: list[dict[str, float]] = []

    async def ask() -> None:
        while True:
            seen.append(by_item(await client.scores()))

    async with serving(folder, bus, bus_config):
        asking = asyncio.create_task(ask())
        turn = 0
        while len(seen) < 60 or not all(state in seen for state in states):
            turn += 1
            await client.write("item", list(range(len(item))), other if turn % 2 else item)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert all(found in states for found in seen)


@pytest.mark.parametrize(
    ("table", "rows", "shape", "sentence"),
    [
        ("colour", [1], (1, DIM), "no table 'colour'"),
        ("item", [8], (1, DIM), "row 8 of table item"),
        ("item", [1], (1, DIM + 1), "takes [1, 4]"),
        ("item", [1, 2], (1, DIM), "takes [2, 4]"),
    ],
)
async def test_rows_that_do_not_fit_are_refused_and_written_nowhere(
    tmp_path: Path, bus: Bus, bus_config: BusConfig, client: Client,
    table: str, rows: list[int], shape: tuple[int, int], sentence: str,
) -> None:  # fmt: skip
    folder = tmp_path / "toy"
    write_toy(folder)
    async with serving(folder, bus, bus_config):
        before = by_item(await client.scores())
        answer = await client.write(table, rows, np.ones(shape))
        assert isinstance(answer, Failed)
        assert answer.code == "invalid_request"
        assert sentence in answer.message
        assert by_item(await client.scores()) == before


def two_versions(tmp_path: Path) -> Path:
    for number in (1, 2):
        write_toy(tmp_path / "made" / str(number), seed=number)
        (tmp_path / "toy").mkdir(exist_ok=True)
        os.rename(tmp_path / "made" / str(number), tmp_path / "toy" / str(number))
    write_labels(tmp_path / "toy", {"stable": "1"})
    return tmp_path / "toy"


async def test_a_new_version_takes_over_while_requests_come_and_none_fails(
    tmp_path: Path, bus: Bus, bus_config: BusConfig, client: Client
) -> None:
    folder = two_versions(tmp_path)
    seen: list[str] = []

    async def ask() -> None:
        while True:
            answer = await client.scores()
            assert isinstance(answer, Scores)
            seen.append(answer.version)

    async with serving(folder, bus, bus_config) as service:
        asking = asyncio.create_task(ask())
        write_labels(folder, {"stable": "2", "before": "1"})
        await until(service, "versions", "before=1,stable=2")
        assert isinstance(old := await client.scores("before"), Scores)
        assert old.version == "1"
        write_labels(folder, {"stable": "1", "before": ""})
        await until(service, "versions", "stable=1")
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        gone = await client.scores("2")
        assert isinstance(gone, Failed)
        assert (gone.code, gone.param) == ("not_found", "version")
    order = [version for n, version in enumerate(seen) if n == 0 or seen[n - 1] != version]
    assert order in (["1", "2", "1"], ["1", "2"], ["2", "1"], ["1"], ["2"])


async def test_rows_are_those_of_the_version_that_they_were_written_to(
    tmp_path: Path, bus: Bus, bus_config: BusConfig, client: Client
) -> None:
    folder = two_versions(tmp_path)
    write_labels(folder, {"canary": "2"})
    async with serving(folder, bus, bus_config):
        stable = by_item(await client.scores("stable"))
        canary = by_item(await client.scores("canary"))
        answer = await client.write("item", [1], np.ones((1, DIM)), "canary")
        assert isinstance(answer, Written)
        assert answer.version == "2"
        async with asyncio.timeout(20):
            while by_item(await client.scores("canary")) == canary:
                pass
        assert by_item(await client.scores("stable")) == stable


async def test_metrics_show_each_version_while_it_is_served(
    tmp_path: Path, bus: Bus, bus_config: BusConfig, client: Client
) -> None:
    folder = two_versions(tmp_path)

    def shown(version: str) -> float:
        found = [
            REGISTRY.get_sample_value(
                "arena_bytes", {"model": "toy", "version": version, "pages": pages}
            )
            for pages in ("huge", "small")
        ]
        return sum(value or 0 for value in found)

    async with serving(folder, bus, bus_config) as service:
        assert shown("1") > 0
        assert shown("2") == 0
        write_labels(folder, {"stable": "2"})
        await until(service, "version", "2")
        async with asyncio.timeout(20):
            while shown("1") > 0:
                await service.registry.changed()
        assert shown("2") > 0
    assert shown("2") == 0
