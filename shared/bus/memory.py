"""The bus within one process. A real bus: it stores bytes, keeps groups, leases and redelivery.

What a service sees is the same as over Redis; tests/shared/test_bus_contract.py holds both to it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from shared.bus import metrics
from shared.bus.base import Backlog, Bus, Delivery, Follower, Instance, Subscription
from shared.bus.memory_journal import Journal, MemoryFollower
from shared.codec import decode, encode
from shared.config import BusConfig
from shared.errors import BusError, MessageError
from shared.topics import Topic

logger = logging.getLogger(__name__)
M = TypeVar("M")


@dataclass(slots=True)
class Pending:
    """An entry in a consumer's hands, or in nobody's once `expires` is past."""

    consumer: int
    expires: float
    num_deliveries: int


@dataclass(slots=True)
class Log:
    """One topic: its entries by ascending number, the first that nobody was handed yet, and what
    is delivered but not acknowledged."""

    entries: dict[int, bytes] = field(default_factory=dict)
    num_published: int = 0
    next_entry: int = 0
    waiting_since: deque[float] = field(default_factory=deque)
    """When each entry from `next_entry` on was published."""
    pending: dict[int, Pending] = field(default_factory=dict)
    dead: deque[tuple[bytes, str]] = field(default_factory=deque)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)


class MemoryBus(Bus):
    """See Bus. Lives on one event loop."""

    def __init__(self, config: BusConfig) -> None:
        self.config = config
        self._logs: dict[str, Log] = {}
        self._journals: dict[str, Journal] = {}
        self._inboxes: dict[str, asyncio.Queue[bytes]] = {}
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
        log = self.log(topic)
        if len(log.entries) >= self.config.max_topic_messages:
            metrics.TOPIC_FULL.labels(topic).inc()
            raise BusError(f"topic {topic} holds its {len(log.entries)} messages already")
        async with log.changed:
            log.entries[log.num_published] = data
            log.num_published += 1
            log.waiting_since.append(asyncio.get_running_loop().time())
            log.changed.notify_all()

    @asynccontextmanager
    async def subscribe(self, topic: Topic[M]) -> AsyncIterator[Subscription[M]]:
        subscription = MemorySubscription(self, topic, next(self._consumers))
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
        data = encode(message)
        for inbox in inboxes:
            self.send_bytes(inbox, data)

    def send_bytes(self, inbox: str, data: bytes) -> None:
        """What `send` does with the encoded message for one inbox."""
        queue = self._inboxes.get(inbox)
        if queue is None:
            return
        if queue.qsize() >= self.config.max_inbox_messages:
            metrics.INBOX_DROPPED.inc()
            queue.get_nowait()
        queue.put_nowait(data)

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


async def _messages(queue: asyncio.Queue[bytes]) -> AsyncIterator[object]:
    while True:
        data = await queue.get()
        try:
            message = decode(data)
        except MessageError as error:
            metrics.MALFORMED.inc()
            logger.warning("inbox message dropped: %s", error)
            continue
        yield message


class MemorySubscription(Subscription[M]):
    """One consumer of a group."""

    def __init__(self, bus: MemoryBus, topic: Topic[M], consumer: int) -> None:
        self._bus = bus
        self._topic = topic
        self._log = bus.log(topic.name)
        self._consumer = consumer
        self._held: dict[int, MemoryDelivery[M]] = {}

    async def next(self) -> Delivery[M]:
        loop = asyncio.get_running_loop()
        while True:
            async with self._log.changed:
                while (entry := self._take(loop.time())) is None:
                    await self._change_or_expiry(loop.time())
            delivery = await self._open(entry)
            if delivery is not None:
                return delivery

    async def renew(self) -> None:
        """Keeps the leases of what is held, and notices what was lost, until cancelled."""
        loop = asyncio.get_running_loop()
        lease_s = self._bus.config.delivery_lease_s
        while True:
            await asyncio.sleep(lease_s / 3)
            for entry, delivery in list(self._held.items()):
                pending = self._log.pending.get(entry)
                if pending is None or pending.consumer != self._consumer:
                    delivery.lost.set()
                    del self._held[entry]
                else:
                    pending.expires = loop.time() + lease_s

    async def answer(self, entry: int, inbox: str, data: bytes) -> bool:
        """Sends the bytes and forgets the entry, if it is still this consumer's."""
        async with self._log.changed:
            self._held.pop(entry, None)
            pending = self._log.pending.get(entry)
            if pending is None or pending.consumer != self._consumer:
                return False
            self._bus.send_bytes(inbox, data)
            # Nobody is woken: nothing has come, and whoever waits again loses their turn to others.
            del self._log.pending[entry]
            del self._log.entries[entry]
            return True

    async def release(self, entry: int, expires: float | None) -> None:
        """Forgets an entry (None), or lets its lease end at a time."""
        async with self._log.changed:
            self._held.pop(entry, None)
            pending = self._log.pending.get(entry)
            if pending is None or pending.consumer != self._consumer:
                return
            if expires is None:
                del self._log.pending[entry]
                del self._log.entries[entry]
                return
            pending.expires = expires
            pending.num_deliveries -= 1
            self._log.changed.notify_all()

    async def bury(self, data: bytes, reason: str) -> None:
        """Keeps the bytes of a message among the topic's dead letters."""
        metrics.DEAD_LETTERS.labels(self._topic.name).inc()
        self._log.dead.append((data, reason))
        while len(self._log.dead) > self._bus.config.max_dead_letters:
            self._log.dead.popleft()

    def _take(self, now: float) -> int | None:
        """The next entry for this consumer: one whose lease ran out, else a new one."""
        log, lease_s = self._log, self._bus.config.delivery_lease_s
        for entry, pending in log.pending.items():
            if pending.expires <= now:
                metrics.REDELIVERIES.labels(self._topic.name).inc()
                pending.consumer = self._consumer
                pending.expires = now + lease_s
                pending.num_deliveries += 1
                return entry
        if log.next_entry == log.num_published:
            return None
        entry = log.next_entry
        log.next_entry += 1
        log.waiting_since.popleft()
        log.pending[entry] = Pending(self._consumer, now + lease_s, 1)
        return entry

    async def _change_or_expiry(self, now: float) -> None:
        expiries = [pending.expires for pending in self._log.pending.values()]
        timeout_s = max(0.0, min(expiries) - now) + 1e-3 if expiries else None
        try:
            async with asyncio.timeout(timeout_s):
                await self._log.changed.wait()
        except TimeoutError:
            return

    async def _open(self, entry: int) -> MemoryDelivery[M] | None:
        """The delivery of an entry; a malformed one is buried."""
        data = self._log.entries[entry]
        try:
            message = decode(data)
            if not isinstance(message, self._topic.type):
                raise MessageError(f"{type(message).__name__} on topic {self._topic.name}")
        except MessageError as error:
            metrics.MALFORMED.inc()
            await self.bury(data, str(error))
            await self.release(entry, None)
            return None
        delivery = MemoryDelivery(self, entry, data, message)
        delivery.num_deliveries = self._log.pending[entry].num_deliveries
        self._held[entry] = delivery
        return delivery


class MemoryDelivery(Delivery[M], Generic[M]):
    """See Delivery."""

    def __init__(
        self, subscription: MemorySubscription[M], entry: int, data: bytes, message: M
    ) -> None:
        self.message = message
        self.num_deliveries = 1
        self.lost = asyncio.Event()
        self._subscription = subscription
        self._entry = entry
        self._data = data

    async def answer(self, inbox: str, message: object) -> bool:
        return await self._subscription.answer(self._entry, inbox, encode(message))

    async def ack(self) -> None:
        await self._subscription.release(self._entry, None)

    async def hand_back(self) -> None:
        await self._subscription.release(self._entry, 0.0)

    async def bury(self, reason: str) -> None:
        await self._subscription.bury(self._data, reason)
