"""Where the server of our keys is: at the address given, at the master that Sentinels name, or at
the node of a cluster that has the slot of our hash tag.

All our keys share one hash tag, so they lie on one node, scripts and blocking reads included: a
cluster needs no other client, only the right address. It is looked up anew for each connection,
and a server that has lost its place has its connections closed; nothing else is needed to follow
a failover.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import Redis
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from shared.config import BusConfig
from shared.errors import ConfigError

Address = tuple[str, int]

DEFAULT_PORT = 6379
ASKING_TIMEOUT_S = 1.0


def addresses(url: str) -> list[Address]:
    """The hosts of a URL such as redis://user:password@a:6379,b,c:6381/0. Raises ConfigError."""
    hosts = urlsplit(url).netloc.rpartition("@")[2]
    found = []
    for host in hosts.split(","):
        name, separator, port = host.rpartition(":")
        if not separator or host.endswith("]"):
            name, port = host, str(DEFAULT_PORT)
        if not name or not port.isdecimal():
            raise ConfigError(f"BUS_URL: {host!r} in {hosts!r} is not HOST or HOST:PORT")
        found.append((name.strip("[]"), int(port)))
    return found


class Locator:
    """Knows whom to ask. `options` are those of a connection, to ask with."""

    def __init__(self, config: BusConfig, options: Mapping[str, Any]) -> None:
        self._given = addresses(config.url)
        self._known = list(self._given)
        self._master = config.sentinel_master
        self._is_cluster = len(self._given) > 1 and self._master is None
        self._slot = key_slot(config.key_prefix.encode())
        self._options = options

    async def find(self) -> Address:
        """The server's address now. Raises redis' ConnectionError if nobody who can be reached
        knows it."""
        if self._master is None and not self._is_cluster:
            return self._given[0]
        reason = "it is not known there"
        for address in list(self._known):
            try:
                found = await self._ask(address)
            except (RedisError, OSError) as error:
                reason = str(error)
            else:
                if found is not None:
                    return found
        wanted = self._master or f"slot {self._slot}"
        asked = ", ".join(f"{host}:{port}" for host, port in self._known)
        raise ConnectionError(f"{asked} do not tell where {wanted} is: {reason}")

    def has_moved(self) -> None:
        """A server has said that it is one of a cluster, and not the one that has our slot."""
        self._is_cluster = True

    async def _ask(self, address: Address) -> Address | None:
        host, port = address
        async with Redis.from_pool(_pool(self._options, host=host, port=port)) as client:
            ask: Callable[..., Awaitable[Any]] = client.execute_command
            if self._master is not None:
                return _address(await ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master))
            ranges = await ask("CLUSTER", "SLOTS")
        nodes = [node for _, _, *group in ranges for node in group]
        # A node that knows no name for itself is the one that was asked.
        seen = [_address(node) or address for node in nodes]
        self._known = list(dict.fromkeys((address, *seen, *self._given)))
        for first, last, owner, *_ in ranges:
            if first <= self._slot <= last:
                return _address(owner) or address
        return None


def _address(node: Sequence[Any] | None) -> Address | None:
    if not node or not node[0]:
        return None
    host = node[0].decode() if isinstance(node[0], bytes) else str(node[0])
    return host, int(node[1])


class LocatedConnection(Connection):
    """Goes to the server that the locator finds."""

    def __init__(self, *, locator: Locator, **options: Any) -> None:
        super().__init__(**options)
        self._locator = locator

    async def _connect(self) -> None:
        self.host, self.port = await self._locator.find()
        await super()._connect()  # type: ignore[no-untyped-call] # redis-py annotates only a part

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*arguments, **options)
        except ResponseError as error:
            if not _is_misplaced(error):
                raise
            if isinstance(error, MovedError):
                self._locator.has_moved()
            await self.disconnect()
            raise ConnectionError(f"the server has lost its place: {error}") from error


class LocatedSSLConnection(LocatedConnection, SSLConnection):
    """As LocatedConnection, over TLS."""


def _is_misplaced(error: ResponseError) -> bool:
    """MOVED and ASK of a cluster, a master that has become a replica. Inside a script, servers
    before 7.0 report it as an error like any other."""
    kinds = (AskError, ClusterDownError, ReadOnlyError)
    return isinstance(error, kinds) or "-READONLY " in str(error)


def connect_pool(config: BusConfig, options: Mapping[str, Any]) -> ConnectionPool:
    """Connections to wherever our keys are; `options` are redis-py's of a connection."""
    if config.url.startswith("unix://"):
        return ConnectionPool.from_url(config.url, **options)
    parts = urlsplit(config.url)
    user, at, _ = parts.netloc.rpartition("@")
    parsed: dict[str, Any] = {**parse_url(urlunsplit(parts._replace(netloc=f"{user}{at}host")))}
    del parsed["host"]
    is_tls = parsed.pop("connection_class", None) is not None
    asking = {**options, "socket_timeout": ASKING_TIMEOUT_S}
    if config.sentinel_master is not None:
        # Sentinels have no databases, and passwords of their own, if any.
        asking.pop("credential_provider", None)
    else:
        asking |= {key: value for key, value in parsed.items() if key != "db"}
    asking["is_tls"] = is_tls
    return ConnectionPool(
        connection_class=LocatedSSLConnection if is_tls else LocatedConnection,
        locator=Locator(config, asking),
        **parsed,
        **options,
    )


def _pool(options: Mapping[str, Any], host: str, port: int) -> ConnectionPool:
    """For one question."""
    kept = {name: value for name, value in options.items() if name != "is_tls"}
    kept |= {"host": host, "port": port, "socket_connect_timeout": ASKING_TIMEOUT_S}
    kept["retry"] = Retry(NoBackoff(), 0)
    kind = SSLConnection if options["is_tls"] else Connection
    return ConnectionPool(connection_class=kind, **kept)
