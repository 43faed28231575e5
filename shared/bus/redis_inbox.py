"""Inboxes on Redis Streams: made by their owner alone, so that mail for the dead vanishes.

Senders use XADD NOMKSTREAM. The owner keeps the key from expiring, makes it again when the server
has forgotten it, and trims what it has read, all off the critical path.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.bus.received import Parcel
from shared.bus.redis_client import BLOCK_MS, FIELD, PARTING_S, Entry, RedisClient, read_entries
from shared.errors import BusError

logger = logging.getLogger(__name__)
UPKEEP_S = 1.0
EXPIRY_MS = 30_000
COUNT = 64


class RedisInbox:
    """One process's inbox, with its own connection for blocking reads."""

    def __init__(self, client: RedisClient, inbox: str) -> None:
        self._client = client
        self._key = client.key("inbox", inbox)
        self._reader: Redis = client.reader()
        self._last: bytes = b"0-0"

    async def create(self) -> None:
        """Makes the empty stream (XGROUP CREATE is the one command that does) if need be."""

        async def operation() -> None:
            try:
                await self._client.commands.xgroup_create(self._key, "owner", "$", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise
            await self._client.commands.pexpire(self._key, EXPIRY_MS)

        await self._client.call(operation)

    async def keep(self) -> None:
        """Upkeep until cancelled."""
        while True:
            await asyncio.sleep(UPKEEP_S)
            try:
                if not await self._client.call(
                    lambda: self._client.commands.pexpire(self._key, EXPIRY_MS)
                ):
                    await self.create()
                await self._client.call(self._trim)
            except BusError as error:
                logger.warning("inbox not kept: %s", error)

    async def messages(self) -> AsyncIterator[object]:
        """In the order of arrival, for ever."""
        while True:
            for entry, fields in await self._client.call_forever(self._read):
                self._last = entry
                message = Parcel(fields.get(FIELD, b"")).open()
                if message is not None:
                    yield message

    async def remove(self) -> None:
        """Ends the inbox; what is left in it goes with it."""
        await self._reader.aclose()
        try:
            await self._client.call(lambda: self._client.commands.delete(self._key), PARTING_S)
        except BusError as error:
            logger.debug("inbox left to expire: %s", error)

    async def _read(self) -> list[Entry]:
        answer = await self._reader.xread({self._key: self._last}, count=COUNT, block=BLOCK_MS)
        return read_entries(answer)

    async def _trim(self) -> None:
        milliseconds, _, sequence = self._last.partition(b"-")
        behind = b"%s-%d" % (milliseconds, int(sequence) + 1)
        await self._client.commands.xtrim(self._key, minid=behind.decode(), approximate=False)
