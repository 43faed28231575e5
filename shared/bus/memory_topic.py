"""Consumers of topics within one process: leases, redelivery, dead letters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from shared.bus import metrics
from shared.bus.base import Delivery, Subscription
from shared.bus.memory_log import Log, Pending, change
from shared.bus.turns import Turns
from shared.codec import decode_traced, encode
from shared.config import BusConfig
from shared.errors import MessageError
from shared.topics import Topic

M = TypeVar("M")


class MemorySubscription(Subscription[M]):
    """One consumer: its places in the groups of one topic or of two."""

    def __init__(self, places: Sequence[MemoryPlace[M]], lease_s: float) -> None:
        self._places = places
        self._lease_s = lease_s
        self._turns = Turns()

    async def next(self) -> Delivery[M]:
        loop = asyncio.get_running_loop()
        while True:
            if (delivery := self._take(loop.time())) is not None:
                return delivery
            await self._change_or_expiry(loop.time())

    async def renew(self) -> None:
        """Keeps the leases of what is held, and notices what was lost, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._lease_s / 3)
            for place in self._places:
                place.renew(loop.time())

    def _take(self, now: float) -> Delivery[M] | None:
        for place in reversed(self._places) if self._turns.is_lows else self._places:
            if (delivery := place.take(now)) is not None:
                self._turns.took(is_low=place is not self._places[0])
                return delivery
        return None

    async def _change_or_expiry(self, now: float) -> None:
        expiries = [e for place in self._places for e in place.expiries()]
        timeout_s = max(0.0, min(expiries) - now) + 1e-3 if expiries else None
        try:
            async with asyncio.timeout(timeout_s):
                await change([place.log for place in self._places])
        except TimeoutError:
            return


class MemoryPlace(Generic[M]):
    """A consumer's place in the group of one topic, and what it holds there."""

    def __init__(
        self,
        topic: Topic[M],
        log: Log,
        consumer: int,
        config: BusConfig,
        send: Callable[[str, bytes], None],
    ) -> None:
        self.log = log
        self.topic = topic
        self._consumer = consumer
        self._config = config
        self._send = send
        self._held: dict[int, MemoryDelivery[M]] = {}

    def take(self, now: float) -> MemoryDelivery[M] | None:
        """A delivery of what may be taken now; what is malformed is buried on the way."""
        while (entry := self._entry(now)) is not None:
            if (delivery := self._open(entry, now)) is not None:
                return delivery
        return None

    def expiries(self) -> list[float]:
        """When leases end, whoever has them."""
        return [pending.expires for pending in self.log.pending.values()]

    def renew(self, now: float) -> None:
        """Once."""
        for entry, delivery in list(self._held.items()):
            pending = self.log.pending.get(entry)
            if pending is None or pending.consumer != self._consumer:
                delivery.lost.set()
                del self._held[entry]
            else:
                pending.expires = now + self._config.delivery_lease_s

    def answer(self, entry: int, inbox: str, data: bytes) -> bool:
        """Sends the bytes and forgets the entry, if it is still this consumer's."""
        if self._let_go(entry) is None:
            return False
        self._send(inbox, data)
        # Nobody is woken: nothing has come, and whoever waits again loses their turn to others.
        self._forget(entry)
        return True

    def release(self, entry: int, expires: float | None) -> None:
        """Forgets an entry (None), or lets its lease end at a time."""
        pending = self._let_go(entry)
        if pending is None:
            return
        if expires is None:
            self._forget(entry)
            return
        pending.expires = expires
        pending.num_deliveries -= 1
        self.log.wake()

    def bury(self, data: bytes, reason: str) -> None:
        """Keeps the bytes of a message among the topic's dead letters."""
        metrics.DEAD_LETTERS.labels(self.topic.name).inc()
        limit = self._config.max_dead_letters
        self.log.bury(self.topic.name, data, reason, time.time(), limit)

    def _let_go(self, entry: int) -> Pending | None:
        """The entry's lease, if this consumer still has it."""
        self._held.pop(entry, None)
        pending = self.log.pending.get(entry)
        return None if pending is None or pending.consumer != self._consumer else pending

    def _forget(self, entry: int) -> None:
        del self.log.pending[entry]
        del self.log.entries[entry]

    def _entry(self, now: float) -> int | None:
        """The next entry for this consumer: one whose lease ran out, else a new one."""
        log, lease_s = self.log, self._config.delivery_lease_s
        for entry, pending in log.pending.items():
            if pending.expires <= now:
                metrics.REDELIVERIES.labels(self.topic.name).inc()
                pending.consumer = self._consumer
                pending.expires = now + lease_s
                pending.num_deliveries += 1
                return entry
        if log.next_entry == log.num_published:
            return None
        entry = log.next_entry
        log.next_entry += 1
        published = log.waiting_since.popleft()
        log.pending[entry] = Pending(self._consumer, published, now + lease_s, 1)
        return entry

    def _open(self, entry: int, now: float) -> MemoryDelivery[M] | None:
        """The delivery of an entry; a malformed one is buried."""
        data = self.log.entries[entry]
        try:
            message, trace = decode_traced(data)
            if not isinstance(message, self.topic.type):
                raise MessageError(f"{type(message).__name__} on topic {self.topic.name}")
        except MessageError as error:
            metrics.MALFORMED.inc()
            self.bury(data, str(error))
            self.release(entry, None)
            return None
        delivery = MemoryDelivery(self, entry, data, message)
        pending = self.log.pending[entry]
        delivery.num_deliveries = pending.num_deliveries
        delivery.trace = trace
        delivery.waited_s = max(0.0, now - pending.published)
        self._held[entry] = delivery
        return delivery


class MemoryDelivery(Delivery[M], Generic[M]):
    """See Delivery."""

    def __init__(self, place: MemoryPlace[M], entry: int, data: bytes, message: M) -> None:
        self.message = message
        self.topic = place.topic.name
        self.num_deliveries = 1
        self.trace = None
        self.waited_s = 0.0
        self.lost = asyncio.Event()
        self._place = place
        self._entry = entry
        self._data = data

    async def answer(self, inbox: str, message: object) -> bool:
        return self._place.answer(self._entry, inbox, encode(message))

    async def ack(self) -> None:
        self._place.release(self._entry, None)

    async def hand_back(self) -> None:
        self._place.release(self._entry, 0.0)

    async def bury(self, reason: str) -> None:
        self._place.bury(self._data, reason)
