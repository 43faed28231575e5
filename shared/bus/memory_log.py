"""One topic within one process: what is to be done, what is in hands, what was put aside.

Nothing here waits but `change`, so that each step is whole: there is one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.bus.base import DeadLetter


@dataclass(slots=True)
class Pending:
    """An entry in a consumer's hands, or in nobody's once `expires` is past."""

    consumer: int
    published: float
    expires: float
    num_deliveries: int


@dataclass(slots=True)
class Log:
    """A topic's entries by ascending number, the first that nobody was handed yet, what is
    delivered but not acknowledged, and the dead letters, oldest first."""

    entries: dict[int, bytes] = field(default_factory=dict)
    num_published: int = 0
    next_entry: int = 0
    waiting_since: deque[float] = field(default_factory=deque)
    """When each entry from `next_entry` on was published."""
    pending: dict[int, Pending] = field(default_factory=dict)
    dead: list[DeadLetter] = field(default_factory=list)
    num_buried: int = 0
    sleepers: dict[asyncio.Future[None], None] = field(default_factory=dict)
    """Who waits for something to take, in the order in which they came."""

    def append(self, data: bytes) -> None:
        """A new entry, at the end."""
        self.entries[self.num_published] = data
        self.num_published += 1
        self.waiting_since.append(asyncio.get_running_loop().time())
        self.wake()

    def wake(self) -> None:
        """Has everybody look again, who has waited longest first."""
        for sleeper in self.sleepers:
            if not sleeper.done():
                sleeper.set_result(None)

    def bury(self, topic: str, data: bytes, reason: str, now: float, limit: int) -> None:
        """Puts a message aside; beyond the limit, the oldest are dropped."""
        self.num_buried += 1
        self.dead.append(DeadLetter(topic, str(self.num_buried), now, reason, data))
        del self.dead[:-limit]

    def revive(self, letter: DeadLetter, data: bytes) -> bool:
        """From the dead letters to the entries; False if it is not among them."""
        if letter not in self.dead:
            return False
        self.dead.remove(letter)
        self.append(data)
        return True


async def change(logs: Sequence[Log]) -> None:
    """Waits until there may be something to take in one of them."""
    woken = asyncio.get_running_loop().create_future()
    for log in logs:
        log.sleepers[woken] = None
    try:
        await woken
    finally:
        for log in logs:
            del log.sleepers[woken]
