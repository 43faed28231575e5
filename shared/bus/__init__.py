"""The bus: `connect` picks the implementation from a URL, once, at the composition root."""

from __future__ import annotations

from shared.bus.base import Backlog, Bus, DeadLetter, Delivery, Follower, Instance, Subscription
from shared.config import BusConfig

__all__ = [
    "Backlog",
    "Bus",
    "DeadLetter",
    "Delivery",
    "Follower",
    "Instance",
    "Subscription",
    "connect",
]


def connect(config: BusConfig) -> Bus:
    """`memory://` is a bus within this process; `redis://`, `rediss://` and `unix://` a server."""
    if config.url.startswith("memory://"):
        from shared.bus.memory import MemoryBus

        return MemoryBus(config)
    from shared.bus.redis import RedisBus

    return RedisBus(config)
