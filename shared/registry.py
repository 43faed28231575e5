"""The live instances, as this process sees them, and the choice among them.

Renews the leases of its own instances every third of a lease and keeps the answer, so that a look
at the live instances costs no bus operation. While the bus is away, the last view stays.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence

from shared.bus.base import Bus, Instance
from shared.errors import BusError, UnavailableError

logger = logging.getLogger(__name__)


def rendezvous(key: str, instances: Sequence[Instance]) -> Instance:
    """Highest-random-weight choice: when the set changes, only the keys of changed instances
    move. `instances` must not be empty."""
    if len(instances) == 1:
        return instances[0]
    return max(instances, key=lambda i: (_score(key, i.instance_id), i.instance_id))


def _score(key: str, instance_id: str) -> bytes:
    return hashlib.blake2b(f"{key}\0{instance_id}".encode(), digest_size=8).digest()


def _drafts_for(drafter: Instance, target: str, vocabulary: str) -> bool:
    targets = drafter.attributes.get("targets", "")
    own = drafter.attributes.get("vocabulary", "")
    return (not targets or target in targets.split(",")) and (
        not (own and vocabulary) or own == vocabulary
    )


class Registry:
    """Announces this process's instances and knows all live ones."""

    def __init__(self, bus: Bus, lease_s: float) -> None:
        self._bus = bus
        self._lease_s = lease_s
        self._own: dict[str, Instance] = {}
        self._live: list[Instance] = []
        self.num_changes = 0
        """Of the set of live instances, so far."""
        self._changed = asyncio.Event()

    async def announce(self, instance: Instance) -> None:
        """Adds an own instance; it is visible to others when this returns."""
        self._own[instance.instance_id] = instance
        await self.refresh()

    async def withdraw(self, instance_id: str) -> None:
        """Removes an own instance at once, as a drain does first of all."""
        if self._own.pop(instance_id, None) is not None:
            await self._bus.withdraw([instance_id])
            await self.refresh()

    async def run(self) -> None:
        """Renews for ever; an absent bus is logged and tried again."""
        while True:
            try:
                await self.refresh()
            except BusError as error:
                logger.warning("registry not renewed: %s", error)
            await asyncio.sleep(self._lease_s / 3)

    def live(self, role: str, name: str | None = None) -> list[Instance]:
        """Live instances of a role (and name), ordered by id."""
        return [i for i in self._live if i.role == role and name in (None, i.name)]

    def drafters(self, target: str, vocabulary: str) -> list[Instance]:
        """Live drafters that draft for a target whose tokens have this digest: those of no target
        in particular, or of this one, whose tokens are not known to be others."""
        return [i for i in self.live("drafter") if _drafts_for(i, target, vocabulary)]

    async def require(self, role: str, name: str) -> None:
        """Raises UnavailableError if no instance is live, after a second look: one that has just
        started may be missing in the first."""
        if not self.live(role, name):
            await self.refresh()
            if not self.live(role, name):
                raise UnavailableError(f"no {role} of {name} is live; try again soon")

    def find(self, instance_id: str) -> Instance | None:
        """The live instance of that id."""
        return next((i for i in self._live if i.instance_id == instance_id), None)

    async def changed(self) -> None:
        """Waits for the next change of the set of live instances."""
        await self._changed.wait()

    async def refresh(self) -> None:
        """Renews now, and sees what is live now."""
        live = await self._bus.announce(list(self._own.values()), self._lease_s)
        if live != self._live:
            self._live = live
            self.num_changes += 1
            self._changed.set()
            self._changed = asyncio.Event()
