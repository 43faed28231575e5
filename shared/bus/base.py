"""The bus as services see it. No service can tell which implementation it has.

Three kinds of traffic (ARCHITECTURE.md, "Durable requests, soft speculation"):
- topics are durable: consumer groups, acknowledged after the effect, redelivered when their
  consumer's lease runs out, put aside as dead letters after too many deliveries;
- inboxes are soft: one per process, addressed directly, bounded; a message to an inbox that
  nobody keeps is dropped;
- journals are durable and kept: each reader reads all of one, from its beginning.
And one small shared state: the registry of live instances, and boards of weights.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

from shared.topics import Topic

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Instance:
    """One live process part, as the registry shows it. `inbox` is where it reads."""

    instance_id: str
    role: str
    name: str
    inbox: str
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Backlog:
    """What no consumer of a topic has been handed yet: how many messages, and for how long the
    oldest of them has waited, by the bus's clock."""

    num_messages: int
    age_s: float


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was put aside, as bytes, since it may be malformed. The id is unique within
    its topic; `buried` is a time of the bus's clock."""

    topic: str
    letter_id: str
    buried: float
    reason: str
    data: bytes


class Delivery(ABC, Generic[M]):
    """One message in the hands of one consumer, whose lease the bus renews while it is held."""

    message: M
    topic: str
    num_deliveries: int
    lost: asyncio.Event
    """Set once the lease ran out and another consumer may hold the message."""
    trace: str | None
    """The traceparent of whoever published it (shared/tracing.py)."""
    waited_s: float
    """Since it was published until it was handed out, by the bus's clock."""

    @abstractmethod
    async def answer(self, inbox: str, message: object) -> bool:
        """Sends the last message about this one to an inbox and acknowledges, in one step, so that
        of all its deliveries one answers. False if another consumer holds or has answered it."""

    @abstractmethod
    async def ack(self) -> None:
        """The effect is published: forget the message. Idempotent."""

    @abstractmethod
    async def hand_back(self) -> None:
        """Let another consumer have it at once; not counted as a failed delivery."""

    @abstractmethod
    async def bury(self, reason: str) -> None:
        """Puts a copy of the message aside under the topic's dead letters."""


class Subscription(ABC, Generic[M]):
    """A consumer's place in a group. `next` hands out one message at a time, own reclaimed ones
    and those of dead consumers included; nothing is fetched ahead of the caller's demand."""

    @abstractmethod
    async def next(self) -> Delivery[M]:
        """Waits for a message. Survives a restart of the bus; malformed ones are dead-lettered."""


class Follower(ABC):
    """A reader's place in a journal, at first its beginning."""

    @abstractmethod
    async def next(self) -> object:
        """Waits for the next message, in the order in which they were recorded. Survives a restart
        of the bus; malformed ones are counted and passed over."""

    @property
    @abstractmethod
    def is_current(self) -> bool:
        """Whether all that was recorded before this reader came has been read."""


class Bus(ABC):
    """All operations raise BusError when the bus stays out of reach for `retry_s`."""

    @abstractmethod
    async def publish(self, topic: Topic[M], message: M) -> None:
        """Appends to a topic. When it returns, the message will be delivered at least once."""

    @abstractmethod
    def subscribe(
        self, topic: Topic[M], low: Topic[M] | None = None
    ) -> AbstractAsyncContextManager[Subscription[M]]:
        """Joins the topic's group, which starts at the topic's beginning. On leaving, messages
        that are neither acknowledged nor handed back stay pending until their lease runs out, as
        after a crash. With `low`, a topic of the same group, whatever is in `topic` comes before
        what is in that, but for one message in turns.LOW_TURN."""

    @abstractmethod
    async def backlog(self, topic: Topic[M]) -> Backlog:
        """The messages that no consumer has been handed yet."""

    async def lag(self, topic: Topic[M]) -> int:
        """How many messages no consumer has been handed yet."""
        return (await self.backlog(topic)).num_messages

    @abstractmethod
    def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """What was put aside of all topics, topic by topic, oldest first."""

    @abstractmethod
    async def revive(self, letter: DeadLetter, data: bytes) -> bool:
        """Appends the bytes to the letter's topic and forgets the letter, in one step, so that of
        all who try one does. False if it is not there any more. Raises BusError for a full topic,
        which leaves the letter where it is."""

    @abstractmethod
    async def record(self, journal: str, message: object) -> None:
        """Appends to a journal, for all readers of now and of later. Raises BusError also if it
        holds its `max_journal_messages`: nothing of it is ever dropped."""

    @abstractmethod
    def follow(self, journal: str) -> AbstractAsyncContextManager[Follower]:
        """Reads a journal from its beginning."""

    @abstractmethod
    async def send(self, inboxes: Iterable[str], message: object) -> None:
        """Puts one message into each of the inboxes that exist; encoded once."""

    @abstractmethod
    async def send_all(self, letters: Iterable[tuple[str, object]]) -> None:
        """Sends each inbox its message, together. Raises BusError once all are tried, if one of
        them could not be sent."""

    @abstractmethod
    def receive(self, inbox: str) -> AbstractAsyncContextManager[AsyncIterator[object]]:
        """Creates the inbox and yields its messages in order; removes it on leaving. Malformed
        messages are counted and dropped. Whoever has taken a message works within its sender's
        trace (`tracing.current`) until it takes the next."""

    @abstractmethod
    async def announce(self, instances: Iterable[Instance], lease_s: float) -> list[Instance]:
        """Registers or renews the instances and returns all live ones, ordered by id."""

    @abstractmethod
    async def withdraw(self, instance_ids: Iterable[str]) -> None:
        """Removes instances before their lease ends."""

    @abstractmethod
    async def scale(
        self, board: str, factors: Mapping[str, float], low: float, high: float
    ) -> dict[str, float]:
        """Multiplies the board's values (1.0 where absent) by the factors, clamps them into
        [low, high], and returns the whole board. Atomic among all callers."""

    @abstractmethod
    def now(self) -> float:
        """Seconds since the epoch by the bus's own clock, the one that deadlines of messages are
        measured by: those of machines may be minutes apart. Exact to about a round trip once
        something was announced."""

    @abstractmethod
    async def close(self) -> None:
        """Releases connections. Subscriptions and receivers must be left before."""
