"""What this process sends: whatever comes while something is under way goes along with the next, in
order, in one round trip. The busier a process is, the fewer commands it sends.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from redis.exceptions import NoScriptError

from shared.bus.redis_client import FIELD, PARTING_S, PUBLISH, TIMEOUT_S, RedisClient
from shared.errors import BusError

MAX_TOGETHER = 64
PUBLISH_SHA = hashlib.sha1(PUBLISH.encode(), usedforsecurity=False).hexdigest()
I = TypeVar("I")  # noqa: E741 - an item, as R is a result
R = TypeVar("R")


class Together(Generic[I, R]):
    """Sends items by `send`, which returns the result of each, or its error; as many at a time as
    there are. Lives on one event loop."""

    def __init__(self, send: Callable[[Sequence[I]], Awaitable[Sequence[R | Exception]]]) -> None:
        self._send = send
        self._waiting: list[tuple[I, asyncio.Future[R]]] = []
        self._sender: asyncio.Task[None] | None = None

    def put(self, item: I) -> asyncio.Future[R]:
        """Done when it is sent. Raises what `send` raises."""
        sent: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, sent))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        return sent

    async def close(self) -> None:
        """Waits a little for what is under way. Nobody may put in any more."""
        if self._sender is not None:
            await asyncio.wait([self._sender], timeout=PARTING_S)
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait([self._sender])

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting[:MAX_TOGETHER]
                del self._waiting[:MAX_TOGETHER]
                await self._send_batch(batch)
        finally:
            self._sender = None

    async def _send_batch(self, batch: Sequence[tuple[I, asyncio.Future[R]]]) -> None:
        results: Sequence[R | Exception]
        try:
            results = await self._send([item for item, _ in batch])
        except Exception as error:  # raised where the items are waited for, or they wait for ever
            results = [error] * len(batch)
        for (_, sent), result in zip(batch, results, strict=True):
            if sent.done():
                continue  # who had waited was cancelled
            if isinstance(result, Exception):
                sent.set_exception(result)
            else:
                sent.set_result(result)


@dataclass(frozen=True, slots=True)
class Letter:
    """One message for some inboxes."""

    keys: Sequence[str]
    data: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """One for the end of a stream that holds less than `limit`. Its name tells it from others when
    it is tried again."""

    key: str
    limit: int
    data: bytes
    name: str = field(default_factory=lambda: uuid.uuid4().hex)


class RedisOutbox:
    """One for each bus."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._letters: Together[Letter, None] = Together(self._send_letters)
        self._entries: Together[Entry, bool] = Together(self._append_entries)

    def send(self, keys: Sequence[str], data: bytes) -> asyncio.Future[None]:
        """Done when the message is in all inboxes that exist. Raises BusError."""
        return self._letters.put(Letter(keys, data))

    async def append(self, key: str, limit: int, data: bytes) -> bool:
        """Once, however often it is tried; False if there are `limit` entries. Raises BusError."""
        return await self._entries.put(Entry(key, limit, data))

    async def close(self) -> None:
        """Waits a little for what is under way. Nobody may send any more."""
        await self._letters.close()
        await self._entries.close()

    async def _send_letters(self, letters: Sequence[Letter]) -> Sequence[None]:
        async def add() -> None:
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

        await self._client.call(add)
        return [None] * len(letters)

    async def _append_entries(self, entries: Sequence[Entry]) -> Sequence[bool | Exception]:
        added: dict[str, bool] = {}

        async def run() -> None:
            left = [entry for entry in entries if entry.name not in added]
            results = await self._run_appends(left)
            if any(isinstance(result, NoScriptError) for result in results):
                # Of a server that has just started.
                await self._client.commands.script_load(PUBLISH)
                results = await self._run_appends(left)
            errors = [result for result in results if isinstance(result, Exception)]
            for entry, result in zip(left, results, strict=True):
                if not isinstance(result, Exception):
                    added[entry.name] = result is not None
            if errors:
                raise errors[0]

        try:
            await self._client.call(run, is_new_work=True)
        except BusError as error:
            # A server may have become full in the middle: what it took, it took.
            return [added.get(entry.name, error) for entry in entries]
        return [added[entry.name] for entry in entries]

    async def _run_appends(self, entries: Sequence[Entry]) -> list[object]:
        kept_s = math.ceil(self._client.config.retry_s + 2 * TIMEOUT_S)
        async with self._client.commands.pipeline(transaction=False) as pipeline:
            for entry in entries:
                keys = (entry.key, self._client.key("published", entry.name))
                arguments = (entry.limit, kept_s, FIELD, entry.data)
                pipeline.evalsha(PUBLISH_SHA, len(keys), *keys, *arguments)
            return list(await pipeline.execute(raise_on_error=False))
