"""The bus within one process. A real bus: it stores bytes, keeps groups, leases and redelivery.

What a service sees is the same as over Redis; tests/shared/test_bus_contract.py holds both to it.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

from shared.bus import metrics
from shared.bus.base import Backlog, Bus, DeadLetter, Follower, Instance, Subscription
from shared.bus.memory_journal import Journal, MemoryFollower
from shared.bus.memory_log import Log
from shared.bus.memory_topic import MemoryPlace, MemorySubscription
from shared.bus.received import Parcel
from shared.codec import encode
from shared.config import BusConfig
from shared.errors import BusError
from shared.topics import Topic

M = TypeVar("M")


class MemoryBus(Bus):
    """See Bus. Lives on one event loop."""

    def __init__(self, config: BusConfig) -> None:
        self.config = config
        self._logs: dict[str, Log] = {}
        self._journals: dict[str, Journal] = {}
        self._inboxes: dict[str, asyncio.Queue[Parcel]] = {}
        self._instances: dict[str, tuple[Instance, float]] = {}
        self._boards: dict[str, dict[str, float]] = {}
        self._consumers = itertools.count()

    def log(self, topic: str) -> Log:
        """The topic's log, made on first use."""
        return self._logs.setdefault(topic, Log())

    async def publish(self, topic: Topic[M], message: M) -> None:
        await self.publish_bytes(topic.name, encode(message))

    async def publish_bytes(self, topic: str, data: bytes) -> None:
        """What `publish` does with the encoded message."""
        self._with_room(topic).append(data)

    def _with_room(self, topic: str) -> Log:
        log = self.log(topic)
        if len(log.entries) >= self.config.max_topic_messages:
            metrics.TOPIC_FULL.labels(topic).inc()
            raise BusError(f"topic {topic} holds its {len(log.entries)} messages already")
        return log

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        for letter in [letter for _, log in sorted(self._logs.items()) for letter in log.dead]:
            yield letter

    async def revive(self, letter: DeadLetter, data: bytes) -> bool:
        if letter not in self.log(letter.topic).dead:
            return False
        return self._with_room(letter.topic).revive(letter, data)

    @asynccontextmanager
    async def subscribe(
        self, topic: Topic[M], low: Topic[M] | None = None
    ) -> AsyncIterator[Subscription[M]]:
        consumer = next(self._consumers)
        places = [
            MemoryPlace(each, self.log(each.name), consumer, self.config, self.send_bytes)
            for each in (topic, low)
            if each is not None
        ]
        subscription = MemorySubscription(places, self.config.delivery_lease_s)
        renewal = asyncio.create_task(subscription.renew())
        try:
            yield subscription
        finally:
            renewal.cancel()
            await asyncio.wait([renewal])

    async def backlog(self, topic: Topic[M]) -> Backlog:
        since = self.log(topic.name).waiting_since
        age_s = asyncio.get_running_loop().time() - since[0] if since else 0.0
        return Backlog(len(since), age_s)

    async def record(self, journal: str, message: object) -> None:
        await self.record_bytes(journal, encode(message))

    async def record_bytes(self, journal: str, data: bytes) -> None:
        """What `record` does with the encoded message."""
        found = self._journals.setdefault(journal, Journal())
        if len(found.entries) >= self.config.max_journal_messages:
            raise BusError(f"journal {journal} holds its {len(found.entries)} messages already")
        async with found.changed:
            found.entries.append(data)
            found.changed.notify_all()

    @asynccontextmanager
    async def follow(self, journal: str) -> AsyncIterator[Follower]:
        yield MemoryFollower(self._journals.setdefault(journal, Journal()))

    async def send(self, inboxes: Iterable[str], message: object) -> None:
        parcel = Parcel(encode(message))
        for inbox in inboxes:
            self._put(inbox, parcel)

    async def send_all(self, letters: Iterable[tuple[str, object]]) -> None:
        for inbox, message in letters:
            self._put(inbox, Parcel(encode(message)))

    def send_bytes(self, inbox: str, data: bytes) -> None:
        """What `send` does with the encoded message for one inbox."""
        self._put(inbox, Parcel(data))

    def _put(self, inbox: str, parcel: Parcel) -> None:
        queue = self._inboxes.get(inbox)
        if queue is None:
            return
        if queue.qsize() >= self.config.max_inbox_messages:
            metrics.INBOX_DROPPED.inc()
            queue.get_nowait()
        queue.put_nowait(parcel)

    @asynccontextmanager
    async def receive(self, inbox: str) -> AsyncIterator[AsyncIterator[object]]:
        queue = self._inboxes.setdefault(inbox, asyncio.Queue())
        try:
            yield _messages(queue)
        finally:
            del self._inboxes[inbox]

    async def announce(self, instances: Iterable[Instance], lease_s: float) -> list[Instance]:
        now = asyncio.get_running_loop().time()
        for instance in instances:
            self._instances[instance.instance_id] = (instance, now + lease_s)
        self._instances = {k: v for k, v in self._instances.items() if v[1] > now}
        return [self._instances[key][0] for key in sorted(self._instances)]

    async def withdraw(self, instance_ids: Iterable[str]) -> None:
        for instance_id in instance_ids:
            self._instances.pop(instance_id, None)

    async def scale(
        self, board: str, factors: Mapping[str, float], low: float, high: float
    ) -> dict[str, float]:
        values = self._boards.setdefault(board, {})
        for name, factor in factors.items():
            values[name] = min(high, max(low, values.get(name, 1.0) * factor))
        return dict(values)

    def now(self) -> float:
        return time.time()

    async def close(self) -> None:
        """Nothing to release."""


async def _messages(queue: asyncio.Queue[Parcel]) -> AsyncIterator[object]:
    while True:
        message = (await queue.get()).open()
        if message is not None:
            yield message
