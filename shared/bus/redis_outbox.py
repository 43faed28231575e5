"""Messages of this process to inboxes: what is sent while others are under way goes along with the
next ones, in order, in one round trip. The busier a process is, the fewer commands it sends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from shared.bus.redis_client import FIELD, PARTING_S, RedisClient


@dataclass(frozen=True, slots=True)
class Letter:
    """One message for some inboxes, and who waits until it is there."""

    keys: Sequence[str]
    data: bytes
    sent: asyncio.Future[None]


class RedisOutbox:
    """One for each bus; lives on one event loop."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._waiting: list[Letter] = []
        self._sender: asyncio.Task[None] | None = None

    async def send(self, keys: Sequence[str], data: bytes) -> None:
        """Returns when the message is in all inboxes that exist. Raises BusError."""
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(Letter(keys, data, sent))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        await sent

    async def close(self) -> None:
        """Waits a little for what is under way. Nobody may send any more."""
        if self._sender is not None:
            await asyncio.wait([self._sender], timeout=PARTING_S)
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait([self._sender])

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                letters, self._waiting = self._waiting, []
                await self._send_together(letters)
        finally:
            self._sender = None

    async def _send_together(self, letters: Sequence[Letter]) -> None:
        error: Exception | None = None
        try:
            await self._client.call(lambda: self._add(letters))
        except (
            Exception
        ) as caught:  # raised where the letters are waited for, or they wait for ever
            error = caught
        for letter in letters:
            if letter.sent.done():
                continue  # who had waited was cancelled
            if error is None:
                letter.sent.set_result(None)
            else:
                letter.sent.set_exception(error)

    async def _add(self, letters: Sequence[Letter]) -> None:
        async with self._client.commands.pipeline(transaction=False) as pipeline:
            for letter in letters:
                for key in letter.keys:
                    pipeline.xadd(
                        key,
                        {FIELD: letter.data},
                        nomkstream=True,
                        maxlen=self._client.config.max_inbox_messages,
                        approximate=True,
                    )
            await pipeline.execute()
