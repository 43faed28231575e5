"""The door: how much is let in, and what is told to those who are not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from services.gateway import metrics
from shared.errors import OverloadedError, UnavailableError

RETRY_AFTER_S = 1.0
BATCH_SHARE = 0.5
"""Of the most that are let in, up to where work that can wait is: the rest is for the other."""


class Admission:
    """Counts what is in flight; full means a refusal at once, never a queue without end."""

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        self.num_in_flight = 0
        self._is_closed = False
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @contextmanager
    def enter(self, count: int, *, is_batch: bool = False) -> Iterator[None]:
        """Admits `count` requests together for the time of the body."""
        if self._is_closed:
            metrics.REJECTIONS.labels("draining").inc()
            raise UnavailableError("this gateway is shutting down; try again")
        most = max(1, int(self._max_in_flight * (BATCH_SHARE if is_batch else 1)))
        if self.num_in_flight + count > most:
            metrics.REJECTIONS.labels("batch" if is_batch else "full").inc()
            raise OverloadedError(
                f"{self.num_in_flight} requests are in flight, the most that are let in is {most}"
                + (" for batch work" if is_batch else ""),
                RETRY_AFTER_S,
            )
        self._count(count)
        try:
            yield
        finally:
            self._count(-count)

    async def close(self) -> None:
        """Lets nobody in any more; returns when all who are in have left."""
        self._is_closed = True
        await self._is_idle.wait()

    def _count(self, change: int) -> None:
        self.num_in_flight += change
        metrics.IN_FLIGHT.set(self.num_in_flight)
        if self.num_in_flight > 0:
            self._is_idle.clear()
        else:
            self._is_idle.set()
