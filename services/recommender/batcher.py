"""Scores requests together: whatever waits when a batch ends is the next batch, and none waits
while nothing is being scored. Knows no bus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from services.recommender import metrics
from services.recommender.engine import Query
from services.recommender.model import FloatArray, Model

Waiting = tuple[Query, "asyncio.Future[list[FloatArray]]"]


class Batcher:
    """Owns the one thread in which the model computes."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._waiting: list[Waiting] = []
        self._wanted = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "recommender")

    async def score(self, query: Query) -> list[FloatArray]:
        """The model's outputs for the query's items. Raises what the model raises."""
        result: asyncio.Future[list[FloatArray]] = asyncio.get_running_loop().create_future()
        self._waiting.append((query, result))
        self._wanted.set()
        return await result

    async def run(self) -> None:
        """Scores batch after batch until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            waiting, self._waiting = self._waiting, []
            await self._answer(waiting)

    async def _answer(self, waiting: Sequence[Waiting]) -> None:
        """Where a batch fails, each of it is scored alone: others need not suffer from one."""
        batch = [(query, result) for query, result in waiting if not result.done()]
        queries = [query for query, _ in batch]
        started = time.perf_counter()
        try:
            scored = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._model.score, queries
            )
        except Exception as error:  # a failed batch fails its requests, not the service
            for query, result in batch:
                if len(batch) > 1:
                    await self._answer([(query, result)])
                elif not result.done():
                    result.set_exception(error)
            return
        metrics.SCORING_SECONDS.observe(time.perf_counter() - started)
        metrics.SCORING_REQUESTS.observe(len(queries))
        metrics.SCORED_ITEMS.inc(sum(query.num_items for query in queries))
        for (_, result), scores in zip(batch, scored, strict=True):
            if not result.done():
                result.set_result(scores)

    def close(self) -> None:
        """Ends the thread after the batch at hand."""
        self._thread.shutdown(wait=False)
