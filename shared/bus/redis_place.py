"""A consumer's place in the group of one topic on Redis: leases by idle time, dead letters.

An entry's lease is its idle time in the group's pending list: its holder keeps resetting it, and
whoever finds it older than the lease takes it over (XAUTOCLAIM), which counts a delivery.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from redis.typing import EncodableT, FieldT

from shared.bus import metrics
from shared.bus.base import Delivery
from shared.bus.redis_client import (
    ANSWER,
    FIELD,
    PARTING_S,
    RENEW,
    Entry,
    RedisClient,
)
from shared.codec import decode_traced, encode
from shared.errors import BusError, MessageError
from shared.topics import Topic

logger = logging.getLogger(__name__)
M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Found:
    """An entry that is this consumer's now."""

    entry: bytes
    data: bytes
    num_deliveries: int


class RedisPlace(Generic[M]):
    """What a consumer holds of a topic, and what becomes of it."""

    def __init__(
        self,
        client: RedisClient,
        topic: Topic[M],
        consumer: str,
        reader: Redis,
        now: Callable[[], float],
    ) -> None:
        self.key = client.key("topic", topic.name)
        self._client = client
        self.topic = topic
        self._consumer = consumer
        self._reader = reader
        self._now = now
        self._lease_ms = int(client.config.delivery_lease_s * 1000)
        self._held: dict[bytes, RedisDelivery[M]] = {}
        self._cursor: bytes = b"0-0"
        self._next_reclaim = 0.0

    async def renew(self) -> None:
        """Keeps the leases of what is held, and notices what was lost. Once."""
        if not self._held:
            return
        ids = list(self._held)
        try:
            lost = await self._client.run(RENEW, [self.key], self.topic.group, self._consumer, *ids)
        except BusError as error:
            if "NOGROUP" not in str(error):
                logger.warning("leases on %s not renewed: %s", self.topic.name, error)
                return
            lost = ids
        assert isinstance(lost, list)
        for entry in lost:
            if (delivery := self._held.pop(entry, None)) is not None:
                delivery.lost.set()

    async def leave(self) -> None:
        """Removes the consumer if it holds nothing."""
        if self._held:
            return
        try:
            commands, group = self._client.commands, self.topic.group
            pending = await commands.xpending_range(self.key, group, "-", "+", 1, self._consumer)
            if not pending:
                await commands.xgroup_delconsumer(self.key, group, self._consumer)
        except RedisError as error:
            logger.debug("consumer not removed: %s", error)

    async def answer(self, entry: bytes, inbox: str, data: bytes) -> bool:
        """Sends the bytes and forgets the entry, if it is still this consumer's. Repeating it
        after a lost reply of the server does nothing. While the server is away or full, the lease
        is still renewed."""
        answered = await self._client.run(
            ANSWER,
            [self.key, self._client.key("inbox", inbox)],
            self.topic.group,
            self._consumer,
            entry,
            self._client.config.max_inbox_messages,
            FIELD,
            data,
        )
        self._held.pop(entry, None)
        return bool(answered)

    async def forget(self, entry: bytes) -> None:
        """Acknowledges and deletes: an acknowledgement alone would keep the entry for ever."""
        self._held.pop(entry, None)
        commands, key, group = self._client.commands, self.key, self.topic.group

        async def ack_and_delete() -> None:
            async with commands.pipeline(transaction=True) as pipeline:
                pipeline.xack(key, group, entry)
                pipeline.xdel(key, entry)
                await pipeline.execute()

        await self._client.call(ack_and_delete)

    async def hand_back(self, entry: bytes, num_deliveries: int) -> None:
        """Ends the lease now, as if this delivery had not been."""
        if self._held.pop(entry, None) is not None:
            await self._release(entry, num_deliveries)

    async def decline(self, found: Found) -> None:
        """Hands back what came beside something else, and has this consumer look for it next."""
        self._next_reclaim = 0.0
        try:
            await self._release(found.entry, found.num_deliveries)
        except BusError as error:
            logger.warning("not handed back, the lease will end: %s", error)

    async def _release(self, entry: bytes, num_deliveries: int) -> None:
        await self._client.call(
            lambda: self._client.commands.xclaim(
                self.key,
                self.topic.group,
                self._consumer,
                0,
                [entry],
                idle=2 * self._lease_ms,
                retrycount=num_deliveries - 1,
                justid=True,
            ),
            PARTING_S,
        )

    async def bury(self, data: bytes, reason: str) -> None:
        """Keeps the bytes of a message among the topic's dead letters."""
        metrics.DEAD_LETTERS.labels(self.topic.name).inc()
        fields: dict[FieldT, EncodableT] = {FIELD: data, b"reason": reason.encode()}
        await self._client.call(
            lambda: self._client.commands.xadd(
                self._client.key("dead", self.topic.name),
                fields,
                maxlen=self._client.config.max_dead_letters,
                approximate=True,
            )
        )

    async def open(self, found: Found) -> RedisDelivery[M] | None:
        """The delivery of an entry; a malformed one is buried."""
        try:
            message, trace = decode_traced(found.data)
            if not isinstance(message, self.topic.type):
                raise MessageError(f"{type(message).__name__} on topic {self.topic.name}")
        except MessageError as error:
            metrics.MALFORMED.inc()
            logger.warning("dead letter on %s: %s", self.topic.name, error)
            await self.bury(found.data, str(error))
            await self.forget(found.entry)
            return None
        # An entry's id begins with the server's time.
        waited_s = max(0.0, self._now() - int(found.entry.partition(b"-")[0]) / 1000)
        delivery = self._held[found.entry] = RedisDelivery(self, found, message, trace, waited_s)
        return delivery

    async def expired(self) -> Found | None:
        """An entry whose lease ran out, looked for now and then."""
        now = asyncio.get_running_loop().time()
        if now < self._next_reclaim:
            return None
        self._next_reclaim = now + self._lease_ms / 3000
        if (found := await self._reclaim()) is not None:
            self._next_reclaim = now
        return found

    async def _reclaim(self) -> Found | None:
        answer = await self._reader.xautoclaim(
            self.key,
            self.topic.group,
            self._consumer,
            self._lease_ms,
            start_id=self._cursor,
            count=1,
        )
        entries: list[Entry]
        self._cursor, entries = answer[0], answer[1]
        for entry, fields in entries:
            # Servers before 7.0 return deleted entries without fields.
            if not fields:
                await self.forget(entry)
                continue
            pending = await self._reader.xpending_range(self.key, self.topic.group, entry, entry, 1)
            metrics.REDELIVERIES.labels(self.topic.name).inc()
            num_deliveries = int(pending[0]["times_delivered"]) if pending else 1
            return Found(entry, fields.get(FIELD, b""), num_deliveries)
        return None

    async def create_group(self) -> None:
        """At the stream's beginning, so that nothing published before is missed."""
        try:
            await self._reader.xgroup_create(self.key, self.topic.group, id="0", mkstream=True)
            metrics.GROUPS_RECREATED.inc()
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise


class RedisDelivery(Delivery[M], Generic[M]):
    """See Delivery."""

    def __init__(
        self, place: RedisPlace[M], found: Found, message: M, trace: str | None, waited_s: float
    ) -> None:
        self.message = message
        self.topic = place.topic.name
        self.num_deliveries = found.num_deliveries
        self.lost = asyncio.Event()
        self.trace = trace
        self.waited_s = waited_s
        self._place = place
        self._found = found

    async def answer(self, inbox: str, message: object) -> bool:
        return await self._place.answer(self._found.entry, inbox, encode(message))

    async def ack(self) -> None:
        await self._place.forget(self._found.entry)

    async def hand_back(self) -> None:
        await self._place.hand_back(self._found.entry, self.num_deliveries)

    async def bury(self, reason: str) -> None:
        await self._place.bury(self._found.data, reason)
