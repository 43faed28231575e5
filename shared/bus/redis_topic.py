"""Topics on Redis Streams: one consumer group each, leases by idle time, dead letters beside.

An entry's lease is its idle time in the group's pending list: its holder keeps resetting it, and
whoever finds it older than the lease takes it over (XAUTOCLAIM), which counts a delivery.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import Generic, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from redis.typing import EncodableT, FieldT

from shared.bus import metrics
from shared.bus.base import Delivery, Subscription
from shared.bus.redis_client import (
    ANSWER,
    BLOCK_MS,
    FIELD,
    PARTING_S,
    RENEW,
    Entry,
    RedisClient,
    read_entries,
)
from shared.codec import decode, encode
from shared.errors import BusError, MessageError
from shared.topics import Topic

logger = logging.getLogger(__name__)
M = TypeVar("M")


class RedisSubscription(Subscription[M]):
    """One consumer of a topic's group, with its own connection for blocking reads."""

    def __init__(self, client: RedisClient, topic: Topic[M]) -> None:
        self._client = client
        self._topic = topic
        self._key = client.key("topic", topic.name)
        self._consumer = uuid.uuid4().hex
        self._reader: Redis = client.reader()
        self._lease_ms = int(client.config.delivery_lease_s * 1000)
        self._held: dict[bytes, RedisDelivery[M]] = {}
        self._fetching: asyncio.Task[RedisDelivery[M]] | None = None
        self._cursor: bytes = b"0-0"
        self._next_reclaim = 0.0

    async def next(self) -> Delivery[M]:
        # A fetch outlives its caller: what it brings is for the next call, or goes back.
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch())
        delivery = await asyncio.shield(self._fetching)
        self._fetching = None
        return delivery

    async def renew(self) -> None:
        """Keeps the leases of what is held, and notices what was lost, until cancelled."""
        while True:
            await asyncio.sleep(self._lease_ms / 3000)
            if not self._held:
                continue
            ids = list(self._held)
            try:
                lost = await self._client.run(
                    RENEW, [self._key], self._topic.group, self._consumer, *ids
                )
            except BusError as error:
                if "NOGROUP" not in str(error):
                    logger.warning("leases on %s not renewed: %s", self._topic.name, error)
                    continue
                lost = ids
            assert isinstance(lost, list)
            for entry in lost:
                if (delivery := self._held.pop(entry, None)) is not None:
                    delivery.lost.set()

    async def leave(self) -> None:
        """Hands back what was fetched for nobody; removes the consumer if it holds nothing."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])
            if not self._fetching.cancelled() and self._fetching.exception() is None:
                await self._fetching.result().hand_back()
        await self._reader.aclose()
        if self._held:
            return
        try:
            commands, group = self._client.commands, self._topic.group
            pending = await commands.xpending_range(self._key, group, "-", "+", 1, self._consumer)
            if not pending:
                await commands.xgroup_delconsumer(self._key, group, self._consumer)
        except RedisError as error:
            logger.debug("consumer not removed: %s", error)

    async def answer(self, entry: bytes, inbox: str, data: bytes) -> bool:
        """Sends the bytes and forgets the entry, if it is still this consumer's. Repeating it
        after a lost reply of the server does nothing. While the server is away or full, the lease
        is still renewed."""
        answered = await self._client.run(
            ANSWER,
            [self._key, self._client.key("inbox", inbox)],
            self._topic.group,
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
        commands, key, group = self._client.commands, self._key, self._topic.group

        async def ack_and_delete() -> None:
            async with commands.pipeline(transaction=True) as pipeline:
                pipeline.xack(key, group, entry)
                pipeline.xdel(key, entry)
                await pipeline.execute()

        await self._client.call(ack_and_delete)

    async def hand_back(self, entry: bytes, num_deliveries: int) -> None:
        """Ends the lease now, as if this delivery had not been."""
        if self._held.pop(entry, None) is None:
            return
        await self._client.call(
            lambda: self._client.commands.xclaim(
                self._key,
                self._topic.group,
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
        metrics.DEAD_LETTERS.labels(self._topic.name).inc()
        fields: dict[FieldT, EncodableT] = {FIELD: data, b"reason": reason.encode()}
        await self._client.call(
            lambda: self._client.commands.xadd(
                self._client.key("dead", self._topic.name),
                fields,
                maxlen=self._client.config.max_dead_letters,
                approximate=True,
            )
        )

    async def _fetch(self) -> RedisDelivery[M]:
        while True:
            found = await self._client.call_forever(self._read)
            if found is None:
                continue
            entry, data, num_deliveries = found
            try:
                message = decode(data)
                if not isinstance(message, self._topic.type):
                    raise MessageError(f"{type(message).__name__} on topic {self._topic.name}")
            except MessageError as error:
                metrics.MALFORMED.inc()
                logger.warning("dead letter on %s: %s", self._topic.name, error)
                await self.bury(data, str(error))
                await self.forget(entry)
                continue
            delivery = RedisDelivery(self, entry, data, message, num_deliveries)
            self._held[entry] = delivery
            return delivery

    async def _read(self) -> tuple[bytes, bytes, int] | None:
        """An entry whose lease ran out, else a new one: id, bytes, number of deliveries."""
        try:
            now = asyncio.get_running_loop().time()
            if now >= self._next_reclaim:
                self._next_reclaim = now + self._lease_ms / 3000
                if (found := await self._reclaim()) is not None:
                    self._next_reclaim = now
                    return found
            answer = await self._reader.xreadgroup(
                self._topic.group,
                self._consumer,
                {self._key: ">"},
                count=1,
                block=max(1, min(BLOCK_MS, self._lease_ms // 3)),
            )
        except ResponseError as error:
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise
            await self._create_group()
            return None
        for entry, fields in read_entries(answer):
            return entry, fields.get(FIELD, b""), 1
        return None

    async def _reclaim(self) -> tuple[bytes, bytes, int] | None:
        answer = await self._reader.xautoclaim(
            self._key,
            self._topic.group,
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
            pending = await self._reader.xpending_range(
                self._key, self._topic.group, entry, entry, 1
            )
            metrics.REDELIVERIES.labels(self._topic.name).inc()
            num_deliveries = int(pending[0]["times_delivered"]) if pending else 1
            return entry, fields.get(FIELD, b""), num_deliveries
        return None

    async def _create_group(self) -> None:
        """At the stream's beginning, so that nothing published before is missed."""
        try:
            await self._reader.xgroup_create(self._key, self._topic.group, id="0", mkstream=True)
            metrics.GROUPS_RECREATED.inc()
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise


class RedisDelivery(Delivery[M], Generic[M]):
    """See Delivery."""

    def __init__(
        self,
        subscription: RedisSubscription[M],
        entry: bytes,
        data: bytes,
        message: M,
        num_deliveries: int,
    ) -> None:
        self.message = message
        self.num_deliveries = num_deliveries
        self.lost = asyncio.Event()
        self._subscription = subscription
        self._entry = entry
        self._data = data

    async def answer(self, inbox: str, message: object) -> bool:
        return await self._subscription.answer(self._entry, inbox, encode(message))

    async def ack(self) -> None:
        await self._subscription.forget(self._entry)

    async def hand_back(self) -> None:
        await self._subscription.hand_back(self._entry, self.num_deliveries)

    async def bury(self, reason: str) -> None:
        await self._subscription.bury(self._data, reason)
