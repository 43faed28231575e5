"""The versions of a model that an instance serves: each with the rows written since, by journal.

A version is served once it is verified, has read its journal to the end, and has scored once.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.recommender import metrics
from services.recommender.arrays import read_rows
from services.recommender.batcher import Batcher
from services.recommender.config import RecommenderConfig
from services.recommender.folder import load_model
from services.recommender.model import Model
from services.recommender.updates import Rows
from services.recommender.versions import Versions
from shared.bus.base import Bus, Follower
from shared.errors import InvalidRequestError, ModelError
from shared.tensor_messages import RowsWritten

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Served:
    """One version."""

    model: Model
    rows: Rows
    journal: str
    following: asyncio.Task[None] | None = None


class ServedVersions:
    """Opens and closes versions as labels ask for them."""

    def __init__(self, name: str, config: RecommenderConfig, bus: Bus, batcher: Batcher) -> None:
        self._name = name
        self._config = config
        self._bus = bus
        self._batcher = batcher
        self.versions: Versions[Served] = Versions(config.model, self._open, self._close)

    async def _open(self, version: str, folder: Path) -> Served:
        """Raises ModelError."""
        config = self._config
        try:
            model = await asyncio.to_thread(
                load_model,
                folder,
                num_threads=config.num_threads,
                memory=config.memory,
                version=version,
            )
        except OSError as error:
            raise ModelError(f"{folder} cannot be read: {error}") from error
        journal = f"{self._name}.{model.digest}"
        served = Served(model, Rows(model.layout, model.engine.arena.bytes), journal)
        async with AsyncExitStack() as stack:
            follower = await stack.enter_async_context(self._bus.follow(journal))
            while not follower.is_current:
                await self._apply(served, await follower.next())
            await self._batcher.run_alone(model.engine.warm_up)
            served.following = asyncio.create_task(self._follow(served, follower, stack.pop_all()))
        huge = model.engine.arena.huge_bytes
        pages = {"huge": huge, "small": len(model.engine.arena.bytes) - huge}
        metrics.observe_version(self._name, version, pages, model.engine.unknown())
        logger.debug("version %s is ready", version)
        return served

    async def _close(self, served: Served) -> None:
        if served.following is not None:
            served.following.cancel()
            await asyncio.wait([served.following])
        model = served.model
        metrics.forget_version(self._name, model.version, list(model.engine.unknown()))
        # Requests that have its model already are still scored; it goes with the last of them.
        logger.debug("version %s is no longer served", model.version)

    def check(self) -> None:
        """Raises what has ended the reading of a journal: rows would be missing from then on."""
        for served in self.versions.open.values():
            if served.following is not None and served.following.done():
                served.following.result()

    async def _follow(self, served: Served, follower: Follower, stack: AsyncExitStack) -> None:
        """Applies what is written from now on, until cancelled."""
        async with stack:
            while True:
                await self._apply(served, await follower.next())

    async def _apply(self, served: Served, message: object) -> None:
        if not isinstance(message, RowsWritten):
            logger.warning("unexpected %s in the journal", type(message).__name__)
            return
        try:
            rows, values = read_rows(message.rows, message.values)
            served.rows.check(message.table, rows, values)
        except InvalidRequestError as error:
            # Whoever recorded it had checked it, so this is a journal of another model.
            logger.error("rows of %s are not written: %s", message.table, error)
            return
        await self._batcher.run_alone(served.rows.write, message.table, rows, values)
        metrics.ROWS_WRITTEN.inc(len(np.unique(rows)))
