"""What a Redis server says of itself, for who is to judge whether it suits."""

from __future__ import annotations

from dataclasses import dataclass

from shared.bus.redis_client import RedisClient
from shared.config import BusConfig

WRITES = ("rdb_last_bgsave", "aof_last_write", "aof_last_bgrewrite")


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """As of its INFO. `max_memory` is 0 where there is no limit."""

    version: tuple[int, ...]
    used_memory: int
    max_memory: int
    eviction_policy: str
    is_append_only: bool
    last_write_failed: bool
    """Of the append-only file or a snapshot."""


async def server_facts(config: BusConfig) -> ServerFacts:
    """Asks the server that has our keys. Raises BusError."""
    client = RedisClient(config)
    try:
        info = await client.call(client.commands.info)
    finally:
        await client.close()
    numbers = str(info.get("redis_version", "0")).split(".")
    return ServerFacts(
        tuple(int(number) for number in numbers if number.isdecimal()),
        int(info.get("used_memory", 0)),
        int(info.get("maxmemory", 0)),
        str(info.get("maxmemory_policy", "unknown")),
        bool(info.get("aof_enabled", 0)),
        any(str(info.get(f"{write}_status", "ok")) != "ok" for write in WRITES),
    )
