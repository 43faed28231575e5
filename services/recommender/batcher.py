"""Scores requests together: whatever waits when a batch ends is the next batch, and none waits
while nothing is being scored. Knows no bus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from services.recommender import metrics
from services.recommender.model import FloatArray, Model
from services.recommender.query import Query

T = TypeVar("T")
P = ParamSpec("P")
Waiting = tuple[Model, Query, "asyncio.Future[list[FloatArray]]"]


class Batcher:
    """Owns the one thread in which models compute."""

    def __init__(self) -> None:
        self._waiting: list[Waiting] = []
        self._wanted = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "recommender")

    async def score(self, model: Model, query: Query) -> list[FloatArray]:
        """The model's outputs for the query's items. Raises what the model raises."""
        result: asyncio.Future[list[FloatArray]] = asyncio.get_running_loop().create_future()
        self._waiting.append((model, query, result))
        self._wanted.set()
        return await result

    async def run_alone(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs it between two batches."""
        call = partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def run(self) -> None:
        """Scores batch after batch until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            waiting, self._waiting = self._waiting, []
            for model in dict.fromkeys(model for model, _, _ in waiting):
                await self._answer(model, [one for one in waiting if one[0] is model])

    async def _answer(self, model: Model, waiting: Sequence[Waiting]) -> None:
        """Where a batch fails, each of it is scored alone: others need not suffer from one."""
        batch = [one for one in waiting if not one[2].done()]
        queries = [query for _, query, _ in batch]
        started = time.perf_counter()
        try:
            scored = await asyncio.get_running_loop().run_in_executor(
                self._thread, model.score, queries
            )
        except Exception as error:  # a failed batch fails its requests, not the service
            for one in batch:
                if len(batch) > 1:
                    await self._answer(model, [one])
                elif not one[2].done():
                    one[2].set_exception(error)
            return
        metrics.SCORING_SECONDS.observe(time.perf_counter() - started)
        metrics.SCORING_REQUESTS.observe(len(queries))
        metrics.SCORED_ITEMS.inc(sum(query.num_items for query in queries))
        for (_, _, result), scores in zip(batch, scored, strict=True):
            if not result.done():
                result.set_result(scores)

    def close(self) -> None:
        """Ends the thread after the batch at hand."""
        self._thread.shutdown(wait=False)
