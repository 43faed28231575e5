"""python -m benchmarks.rows [--scale S]: rows of served tables replaced while requests are scored.

One recommender on the embedded bus, with the paper's small model at a scale. A writer replaces
random rows of its largest table, a thousand at a time, as fast as they are taken, and a reader asks
for 512 candidates of one user again and again; before that the reader alone. Prints rows a second
from the request to the table, and the reader's latency with and without. Writes
benchmarks/results/rows.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from prometheus_client import REGISTRY

from services.recommender.config import RecommenderConfig
from services.recommender.generate import generate
from services.recommender.layout import Layout
from services.recommender.manifest import read_manifest
from services.recommender.planning import Limits
from services.recommender.profile_file import DEFAULT, read_profile
from services.recommender.restructure import read_source, restructure
from services.recommender.service import RecommenderService
from shared.bus import Bus, connect
from shared.config import BusConfig
from shared.messages import Failed
from shared.tensor_messages import Outputs, ScoreRequest, Tensor, WriteRows, Written
from shared.topics import score_requests, write_requests

RESULTS = Path(__file__).parent / "results"
ROWS = 1000
CANDIDATES = 512
AT_A_TIME = 4
"""Writes under way, so that the writer does not wait for each answer."""


class Client:
    """Publishes as a gateway does."""

    def __init__(self, bus: Bus, layout: Layout) -> None:
        self._bus = bus
        self.layout = layout
        self._inbox = f"gateway.{uuid.uuid4().hex}"
        self._asked: dict[str, asyncio.Future[object]] = {}
        self._rng = np.random.default_rng(0)

    async def read(self) -> None:
        async with self._bus.receive(self._inbox) as messages:
            async for message in messages:
                assert isinstance(message, Outputs | Written | Failed)
                if not (asked := self._asked.pop(message.request_id)).done():
                    asked.set_result(message)

    async def score(self) -> float:
        """Seconds of one request: a user's fields once, and its candidates."""
        *user, item = self.layout.fields
        ids = {field.name: self._ids(field.num_rows, 1) for field in user}
        ids[item.name] = self._ids(item.num_rows, CANDIDATES)
        started = time.perf_counter()
        request_id, deadline = self._new()
        request = ScoreRequest(request_id, self._inbox, ids, True, None, deadline)
        await self._bus.publish(score_requests("small"), request)
        assert isinstance(await self._asked[request_id], Outputs)
        return time.perf_counter() - started

    async def write(self, table: str) -> None:
        """Random rows of a table."""
        found = self.layout.table(table)
        values = self._rng.standard_normal((ROWS, found.dim), np.float32)
        packed = Tensor("float32", list(values.shape), values.tobytes())
        request_id, deadline = self._new()
        rows = self._ids(found.num_rows, ROWS)
        request = WriteRows(request_id, self._inbox, table, rows, packed, None, deadline)
        await self._bus.publish(write_requests("small"), request)
        assert isinstance(await self._asked[request_id], Written)

    def _new(self) -> tuple[str, float]:
        request_id = uuid.uuid4().hex
        self._asked[request_id] = asyncio.get_running_loop().create_future()
        return request_id, self._bus.now() + 60

    def _ids(self, below: int, count: int) -> Tensor:
        return Tensor("int64", [count], self._rng.integers(0, below, count).tobytes())


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Client]:
    bus_config = BusConfig(max_journal_messages=10_000_000)
    bus = connect(bus_config)
    service = RecommenderService(RecommenderConfig(model=folder), bus, bus_config)
    client = Client(bus, read_manifest(folder))
    tasks = [asyncio.create_task(service.run()), asyncio.create_task(client.read())]
    await service.ready.wait()
    yield client
    service.drain()
    await tasks[0]
    tasks[1].cancel()
    await bus.close()


def written() -> float:
    return REGISTRY.get_sample_value("rows_written_total") or 0.0


async def measure(folder: Path, seconds: float) -> dict[str, float]:
    async with serving(folder) as client:
        table = client.layout.fields[-1].name
        await client.score()
        alone = await _read_for(client, seconds)
        writers = [asyncio.create_task(_write_for_ever(client, table)) for _ in range(AT_A_TIME)]
        before, started = written(), time.perf_counter()
        beside = await _read_for(client, seconds)
        rows_per_s = (written() - before) / (time.perf_counter() - started)
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
    return {
        "rows_per_s": round(rows_per_s),
        "p50_ms_alone": round(1e3 * float(np.median(alone)), 3),
        "p99_ms_alone": round(1e3 * float(np.percentile(alone, 99)), 3),
        "p50_ms_beside": round(1e3 * float(np.median(beside)), 3),
        "p99_ms_beside": round(1e3 * float(np.percentile(beside, 99)), 3),
        "num_requests_beside": len(beside),
    }


async def _read_for(client: Client, seconds: float) -> list[float]:
    found = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        found.append(await client.score())
    return found


async def _write_for_ever(client: Client, table: str) -> None:
    while True:
        await client.write(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=0.1, help="share of the paper's rows")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS / "rows.json")
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        root = Path(temporary)
        generate("small", root / "source", arguments.scale, 0, lambda share, what: None)
        profile = read_profile(DEFAULT)
        source = read_source(root / "source")
        restructure(source, root / "small", profile, Limits(), lambda share, what: None)
        found = asyncio.run(measure(root / "small", arguments.seconds))
    print(json.dumps(found))
    arguments.out.write_text(json.dumps({"scale": arguments.scale, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
