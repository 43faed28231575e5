"""Several real Redis servers as one: a cluster, or a master with replicas that Sentinels watch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from tests.redis_server import RedisServer, free_port

NUM_SLOTS = 16384
PATIENCE_S = 30.0
NODE_TIMEOUT_MS = "1000"


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Asks again and again; nothing tells when servers have agreed with each other."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                if await holds():
                    return
            except (RedisError, OSError):
                pass
            await asyncio.sleep(0.05)


async def command(server: RedisServer, *parts: str | int) -> Any:
    async with Redis.from_url(server.url) as client:
        commands: Any = client
        return await commands.execute_command(*parts)


def _low_port() -> int:
    """The cluster's own port is 10000 higher."""
    while (port := free_port()) >= 55_000:
        pass
    return port


class RedisCluster:
    """Three masters with a third of the slots each; `replicate` adds a replica to one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.nodes = [self._node(number) for number in range(3)]

    @property
    def url(self) -> str:
        return f"redis://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}/0"

    async def start(self) -> None:
        """Starts, and waits until all know all."""
        for node in self.nodes:
            await asyncio.to_thread(node.start)
        for number, node in enumerate(self.nodes):
            first, end = (NUM_SLOTS * n // 3 for n in (number, number + 1))
            await command(node, "CLUSTER", "ADDSLOTS", *range(first, end))
            await command(node, "CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port)
        await until(self._is_whole)

    def owner(self, tag: str) -> RedisServer:
        """Who has the slot of a hash tag at the start."""
        slot = key_slot(tag.encode())
        return next(node for n, node in enumerate(self.nodes) if slot < NUM_SLOTS * (n + 1) // 3)

    async def replicate(self, master: RedisServer) -> None:
        """Adds a replica of it, and waits until it is in step."""
        name = (await command(master, "CLUSTER", "MYID")).decode()
        replica = self._node(len(self.nodes))
        await asyncio.to_thread(replica.start)
        await command(replica, "CLUSTER", "MEET", "127.0.0.1", master.port)

        async def knows_it() -> bool:
            return name in (await command(replica, "CLUSTER", "NODES")).decode()

        await until(knows_it)
        await command(replica, "CLUSTER", "REPLICATE", name)
        await until(lambda: is_in_step(replica))
        self.nodes.append(replica)
        await until(self._is_whole)

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    async def _is_whole(self) -> bool:
        states = [(await command(node, "CLUSTER", "INFO")).decode() for node in self.nodes]
        known = f"cluster_known_nodes:{len(self.nodes)}\r"
        return all("cluster_state:ok" in state and known in state for state in states)

    def _node(self, number: int) -> RedisServer:
        folder = self._folder / f"node-{number}"
        folder.mkdir()
        return RedisServer(
            folder, port=_low_port(), cluster_enabled="yes", cluster_node_timeout=NODE_TIMEOUT_MS
        )


class Watched:
    """A master, a replica, and three Sentinels that agree on who is which."""

    NAME = "main"

    def __init__(self, folder: Path) -> None:
        self.master = self._server(folder / "master")
        self.replica = self._server(folder / "replica")
        self._sentinels = [self._sentinel(folder / f"sentinel-{n}") for n in range(3)]

    @property
    def url(self) -> str:
        return f"redis://{','.join(f'127.0.0.1:{s.port}' for s in self._sentinels)}/0"

    async def start(self) -> None:
        """Starts, and waits until a failover would succeed."""
        for server in (self.master, self.replica, *self._sentinels):
            await asyncio.to_thread(server.start)
        await command(self.replica, "REPLICAOF", "127.0.0.1", self.master.port)
        await until(lambda: is_in_step(self.replica))
        await until(self._are_agreed)

    def kill(self) -> None:
        for server in (self.master, self.replica, *self._sentinels):
            server.kill()

    async def _are_agreed(self) -> bool:
        for sentinel in self._sentinels:
            told = await command(sentinel, "SENTINEL", "MASTER", self.NAME)
            pairs = (
                told.items() if isinstance(told, dict) else zip(told[::2], told[1::2], strict=True)
            )
            seen = {(k.decode() if isinstance(k, bytes) else k): v for k, v in pairs}
            counts = [int(seen[key]) for key in ("num-slaves", "num-other-sentinels")]
            if counts != [1, 2]:
                return False
        return True

    def _server(self, folder: Path) -> RedisServer:
        folder.mkdir()
        return RedisServer(folder)

    def _sentinel(self, folder: Path) -> RedisServer:
        folder.mkdir()
        config = folder / "sentinel.conf"
        config.write_text(
            f"sentinel monitor {self.NAME} 127.0.0.1 {self.master.port} 2\n"
            f"sentinel down-after-milliseconds {self.NAME} 1000\n"
            f"sentinel failover-timeout {self.NAME} 5000\n"
        )
        return RedisServer(folder, sentinel=config)


async def is_in_step(replica: RedisServer) -> bool:
    async with Redis.from_url(replica.url) as client:
        info = await client.info("replication")
    return info.get("master_link_status") == "up" and not info.get("master_sync_in_progress")
