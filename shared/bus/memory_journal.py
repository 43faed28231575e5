"""Journals within one process."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from shared.bus import metrics
from shared.bus.base import Follower
from shared.codec import decode
from shared.errors import MessageError

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Journal:
    """All that was recorded."""

    entries: list[bytes] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)


class MemoryFollower(Follower):
    """One reader."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._num_before = len(journal.entries)
        self._num_read = 0

    async def next(self) -> object:
        journal = self._journal
        while True:
            async with journal.changed:
                await journal.changed.wait_for(lambda: len(journal.entries) > self._num_read)
            self._num_read += 1
            try:
                return decode(journal.entries[self._num_read - 1])
            except MessageError as error:
                metrics.MALFORMED.inc()
                logger.warning("journal entry passed over: %s", error)

    @property
    def is_current(self) -> bool:
        return self._num_read >= self._num_before
