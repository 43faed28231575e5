"""Load on a server: so many requests at a time, or so many a second. Knows neither HTTP nor text.

Each request that is begun is one record. With a rate, a request's clock starts when it was due,
not when there was room for it: a server that falls behind looks as slow as it is.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from services.cli.report import Record

Send = Callable[[int, Record], Awaitable[str | None]]
"""Sends the n-th request, fills its record in, and returns the kind of error, if there is one."""
INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much, and how fast. One of `num_requests` and `seconds` ends it; without a `rate` each
    of `max_open` requests follows the one before."""

    max_open: int
    num_requests: int | None = None
    seconds: float | None = None
    rate: float | None = None
    seed: int = 0


class Load:
    """One run, and what came of it so far."""

    def __init__(self, plan: Plan, send: Send) -> None:
        self.records: list[Record] = []
        self.num_open = 0
        self.most_open = 0
        self._plan = plan
        self._send = send
        self._room = asyncio.Semaphore(plan.max_open)

    @property
    def num_done(self) -> int:
        return len(self.records) - self.num_open

    async def run(self) -> float:
        """Until all that was begun has ended; the seconds that it took. A cancel ends what is
        open, as interrupted."""
        start = time.perf_counter()
        async with asyncio.TaskGroup() as work:
            for number, due_s in enumerate(self._arrivals()):
                if not await self._is_wanted(start, due_s):
                    break
                record = Record(start + due_s if self._plan.rate else time.perf_counter())
                self.records.append(record)
                self.num_open += 1
                self.most_open = max(self.most_open, self.num_open)
                work.create_task(self._follow(number, record))
        return time.perf_counter() - start

    def _arrivals(self) -> Iterator[float]:
        """When each request is due, in seconds from the start; a Poisson process with a rate."""
        chance = random.Random(self._plan.seed)
        due_s, number = 0.0, 0
        while self._plan.num_requests is None or number < self._plan.num_requests:
            yield due_s
            number += 1
            if self._plan.rate:
                due_s += chance.expovariate(self._plan.rate)

    async def _is_wanted(self, start: float, due_s: float) -> bool:
        """Waits until the request is due and there is room; whether time is left then."""
        end = None if self._plan.seconds is None else start + self._plan.seconds
        if end is not None and start + due_s >= end:
            return False
        await asyncio.sleep(start + due_s - time.perf_counter())
        await self._room.acquire()
        return end is None or time.perf_counter() < end

    async def _follow(self, number: int, record: Record) -> None:
        record.error = INTERRUPTED
        try:
            record.error = await self._send(number, record)
        finally:
            record.total_s = time.perf_counter() - record.started
            self.num_open -= 1
            self._room.release()
