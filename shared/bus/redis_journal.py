"""Journals on Redis Streams: appended to, never trimmed, read by everybody from the beginning."""

from __future__ import annotations

import logging
from collections import deque

from redis.asyncio import Redis

from shared.bus import metrics
from shared.bus.base import Follower
from shared.bus.redis_client import BLOCK_MS, FIELD, Entry, RedisClient, read_entries
from shared.codec import decode
from shared.errors import MessageError

logger = logging.getLogger(__name__)
COUNT = 16


class RedisFollower(Follower):
    """One reader, with its own connection for blocking reads."""

    def __init__(self, client: RedisClient, journal: str) -> None:
        self._client = client
        self._key = client.key("journal", journal)
        self._reader: Redis = client.reader()
        self._last: bytes = b"0-0"
        self._fetched: deque[bytes] = deque()
        self._num_before = 0

    async def start(self) -> None:
        """Sees how much there is already."""
        self._num_before = await self._client.call(lambda: self._client.commands.xlen(self._key))

    async def next(self) -> object:
        while True:
            while not self._fetched:
                for entry, fields in await self._client.call_forever(self._read):
                    self._last = entry
                    self._fetched.append(fields.get(FIELD, b""))
            self._num_before -= 1
            try:
                return decode(self._fetched.popleft())
            except MessageError as error:
                metrics.MALFORMED.inc()
                logger.warning("journal entry passed over: %s", error)

    @property
    def is_current(self) -> bool:
        return self._num_before <= 0

    async def leave(self) -> None:
        """Closes the connection."""
        await self._reader.aclose()

    async def _read(self) -> list[Entry]:
        answer = await self._reader.xread({self._key: self._last}, count=COUNT, block=BLOCK_MS)
        return read_entries(answer)
