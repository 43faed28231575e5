"""The bus over a Redis server (6.2 or newer, or one that speaks the same)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TypeVar

from shared.bus import metrics, redis_dead_letters
from shared.bus.base import Backlog, Bus, DeadLetter, Follower, Instance, Subscription
from shared.bus.redis_client import (
    ANNOUNCE,
    BACKLOG,
    PARTING_S,
    SCALE,
    WITHDRAW,
    RedisClient,
)
from shared.bus.redis_inbox import RedisInbox
from shared.bus.redis_journal import RedisFollower
from shared.bus.redis_outbox import RedisOutbox
from shared.bus.redis_topic import RedisSubscription
from shared.codec import encode
from shared.config import BusConfig
from shared.errors import BusError
from shared.topics import Topic

M = TypeVar("M")


class RedisBus(Bus):
    """See Bus. Connects on first use."""

    def __init__(self, config: BusConfig) -> None:
        self.config = config
        self._client = RedisClient(config)
        self._outbox = RedisOutbox(self._client)
        self._ahead_s = 0.0
        self._registry = [self._client.key("registry", part) for part in ("leases", "instances")]

    async def publish(self, topic: Topic[M], message: M) -> None:
        await self.publish_bytes(topic.name, encode(message))

    async def publish_bytes(self, topic: str, data: bytes) -> None:
        """What `publish` does with the encoded message."""
        limit = self.config.max_topic_messages
        if not await self._outbox.append(self._client.key("topic", topic), limit, data):
            metrics.TOPIC_FULL.labels(topic).inc()
            raise BusError(f"topic {topic} holds its {limit} messages already")

    async def record(self, journal: str, message: object) -> None:
        await self.record_bytes(journal, encode(message))

    async def record_bytes(self, journal: str, data: bytes) -> None:
        """What `record` does with the encoded message."""
        limit = self.config.max_journal_messages
        if not await self._outbox.append(self._client.key("journal", journal), limit, data):
            raise BusError(f"journal {journal} holds its {limit} messages already")

    @asynccontextmanager
    async def follow(self, journal: str) -> AsyncIterator[Follower]:
        follower = RedisFollower(self._client, journal)
        try:
            await follower.start()
            yield follower
        finally:
            await follower.leave()

    @asynccontextmanager
    async def subscribe(
        self, topic: Topic[M], low: Topic[M] | None = None
    ) -> AsyncIterator[Subscription[M]]:
        topics = [topic] if low is None else [topic, low]
        subscription = RedisSubscription(self._client, topics, self.now)
        renewal = asyncio.create_task(subscription.renew())
        try:
            yield subscription
        finally:
            renewal.cancel()
            await asyncio.wait([renewal])
            await subscription.leave()

    async def backlog(self, topic: Topic[M]) -> Backlog:
        key = self._client.key("topic", topic.name)
        answer = await self._client.run(BACKLOG, [key], topic.group)
        assert isinstance(answer, list)
        num_messages, age_ms = answer
        return Backlog(num_messages, age_ms / 1000)

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        async for letter in redis_dead_letters.dead_letters(self._client):
            yield letter

    async def revive(self, letter: DeadLetter, data: bytes) -> bool:
        return await redis_dead_letters.revive(self._client, letter, data)

    async def send(self, inboxes: Iterable[str], message: object) -> None:
        await self.send_bytes(inboxes, encode(message))

    async def send_all(self, letters: Iterable[tuple[str, object]]) -> None:
        sent = [
            self._outbox.send([self._client.key("inbox", inbox)], encode(message))
            for inbox, message in letters
        ]
        results = await asyncio.gather(*sent, return_exceptions=True)
        for error in results:
            if error is not None:
                raise error

    async def send_bytes(self, inboxes: Iterable[str], data: bytes) -> None:
        """What `send` does with the encoded message."""
        await self._outbox.send([self._client.key("inbox", inbox) for inbox in inboxes], data)

    @asynccontextmanager
    async def receive(self, inbox: str) -> AsyncIterator[AsyncIterator[object]]:
        box = RedisInbox(self._client, inbox)
        await box.create()
        upkeep = asyncio.create_task(box.keep())
        try:
            yield box.messages()
        finally:
            upkeep.cancel()
            await asyncio.wait([upkeep])
            await box.remove()

    async def announce(self, instances: Iterable[Instance], lease_s: float) -> list[Instance]:
        pairs = [(i.instance_id, json.dumps(asdict(i))) for i in instances]
        answer = await self._client.run(
            ANNOUNCE,
            self._registry,
            int(lease_s * 1000),
            *(part for pair in pairs for part in pair),
        )
        assert isinstance(answer, list)
        now_ms, values = answer
        self._ahead_s = now_ms / 1000 - time.time()
        live = [Instance(**json.loads(value)) for value in values]
        return sorted(live, key=lambda instance: instance.instance_id)

    async def withdraw(self, instance_ids: Iterable[str]) -> None:
        if ids := list(instance_ids):
            await self._client.run(WITHDRAW, self._registry, *ids, patience_s=PARTING_S)

    async def scale(
        self, board: str, factors: Mapping[str, float], low: float, high: float
    ) -> dict[str, float]:
        pairs = [part for name, factor in factors.items() for part in (name, repr(factor))]
        flat = await self._client.run(SCALE, [self._client.key("board", board)], low, high, *pairs)
        assert isinstance(flat, list)
        return {
            name.decode(): float(value) for name, value in zip(flat[::2], flat[1::2], strict=True)
        }

    def now(self) -> float:
        return time.time() + self._ahead_s

    async def close(self) -> None:
        await self._outbox.close()
        await self._client.close()
