"""The connection to a Redis server: names of keys, scripts, and patience with an absent server."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TimeoutError,
    TryAgainError,
)

from shared.bus import metrics
from shared.bus.redis_location import connect_pool
from shared.config import BusConfig
from shared.errors import BusError

logger = logging.getLogger(__name__)
T = TypeVar("T")

BLOCK_MS = 1000
TIMEOUT_S = 5.0
PARTING_S = 1.0
"""Patience with what only tidies up: leases and expiries do the same a little later."""
FIRST_DELAY_S, MAX_DELAY_S = 0.02, 1.0
FIELD = b"m"
"""The one field of a stream entry: an encoded message."""

_ABSENT = (ConnectionError, TimeoutError, BusyLoadingError, ReadOnlyError, TryAgainError, OSError)
# Inside a script, servers before 7.0 report them as errors like any other.
_FULL = {
    r"^OOM |-OOM ": "is out of memory and takes no messages",
    r"\bMISCONF ": "cannot write to its disk and takes no messages",
}

# A lease ends by the server's clock: those of containers may be minutes apart.
ANNOUNCE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 2, #ARGV, 2 do
  redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[i])
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  redis.call('ZREM', KEYS[1], id)
  redis.call('HDEL', KEYS[2], id)
end
return {now, redis.call('HVALS', KEYS[2])}
"""
WITHDRAW = """
redis.call('ZREM', KEYS[1], unpack(ARGV))
return redis.call('HDEL', KEYS[2], unpack(ARGV))
"""
SCALE = """
for i = 3, #ARGV, 2 do
  local value = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '1') * tonumber(ARGV[i + 1])
  value = math.min(tonumber(ARGV[2]), math.max(tonumber(ARGV[1]), value))
  redis.call('HSET', KEYS[1], ARGV[i], string.format('%.17g', value))
end
return redis.call('HGETALL', KEYS[1])
"""
# Unread requests must never be trimmed away, so a full topic refuses. A publication has a key of
# its own for a while: one that is tried again, since a slow server did not answer in time, is one.
PUBLISH = """
if redis.call('EXISTS', KEYS[2]) == 1 then return '' end
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then return false end
redis.call('SET', KEYS[2], '', 'EX', ARGV[2])
return redis.call('XADD', KEYS[1], '*', ARGV[3], ARGV[4])
"""
# How many entries the group was not handed yet, and the age of the oldest: an entry's id begins
# with the server's time. Servers before 7.0 know no lag; there it is what is in the stream and
# not pending, since the acknowledged is deleted.
BACKLOG = """
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err then return {0, 0} end
local count, last = redis.call('XLEN', KEYS[1]), '-'
for _, group in ipairs(groups) do
  local of = {}
  for i = 1, #group, 2 do of[group[i]] = group[i + 1] end
  if of.name == ARGV[1] then
    count = of.lag or math.max(0, count - of.pending)
    last = '(' .. of['last-delivered-id']
  end
end
local oldest = redis.call('XRANGE', KEYS[1], last, '+', 'COUNT', 1)[1]
if not oldest then return {count, 0} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return {count, math.max(0, now - tonumber(string.match(oldest[1], '^%d+')))}
"""
# Sends the answer and forgets the entry, if this consumer still holds it. A server that has
# forgotten the group holds nothing.
ANSWER = """
local held = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])
if held.err or #held == 0 then return 0 end
redis.call('XADD', KEYS[2], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[4], '*', ARGV[5], ARGV[6])
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
redis.call('XDEL', KEYS[1], ARGV[3])
return 1
"""
# Renews the leases of the entries that the consumer still holds; returns those that it lost.
RENEW = """
local lost = {}
for i = 3, #ARGV do
  local held = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])
  if #held == 1 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
"""


Entry = tuple[bytes, dict[bytes, bytes]]


def read_streams(answer: object) -> list[tuple[str, Entry]]:
    """The entries in an answer to a read, each with its stream's key, in either protocol's
    shape."""
    if isinstance(answer, dict):
        streams = [(key, entry) for key, chunks in answer.items() for c in chunks for entry in c]
    else:
        assert isinstance(answer, list | None)
        streams = [(key, entry) for key, entries in answer or () for entry in entries]
    return [(key.decode(), entry) for key, entry in streams]


def read_entries(answer: object) -> list[Entry]:
    """Likewise, of one stream."""
    return [entry for _, entry in read_streams(answer)]


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Why an operation failed. What passes is worth another try."""

    text: str
    passes: bool = True
    is_full: bool = False


def _trouble(error: Exception) -> _Trouble:
    # The client library cuts the code off the errors that it has classes for.
    text = f"OOM {error}" if isinstance(error, OutOfMemoryError) else str(error)
    for pattern, reason in _FULL.items():
        if re.search(pattern, text):
            return _Trouble(reason, is_full=True)
    if isinstance(error, _ABSENT):
        return _Trouble(f"is out of reach: {error}")
    return _Trouble(f"refused: {error}", passes=False)


async def _heeding_cancels(operation: Callable[[], Awaitable[T]]) -> T:
    """The operation; a cancel that the client library swallowed on its way is raised again."""
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        return await operation()
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


class _PasswordFile(CredentialProvider):
    """Read again for each connection, so that a password can be changed while services run."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def get_credentials(self) -> tuple[str]:
        return (self._file.read_text().strip(),)

    async def get_credentials_async(self) -> tuple[str]:
        return self.get_credentials()


class RedisClient:
    """Commands for everything but blocking reads, which get connections of their own."""

    def __init__(self, config: BusConfig) -> None:
        self.config = config
        self.commands = self._connect(TIMEOUT_S)

    def key(self, *parts: str) -> str:
        """A key of ours. All share a hash tag: scripts work on several of them at a time, which
        have to lie on one node of a cluster."""
        return ":".join((f"{{{self.config.key_prefix}}}", *parts))

    def reader(self) -> Redis:
        """A client for one blocking reader; its timeout is longer than the read blocks."""
        return self._connect(BLOCK_MS / 1000 + TIMEOUT_S)

    async def call(
        self,
        operation: Callable[[], Awaitable[T]],
        patience_s: float | None = None,
        is_new_work: bool = False,
    ) -> T:
        """Runs the operation, again and again while the server is away or full, up to
        `patience_s`, by default `retry_s`. New work is refused at once by a full server. Raises
        BusError."""
        patience_s = self.config.retry_s if patience_s is None else patience_s
        deadline = asyncio.get_running_loop().time() + patience_s
        delay_s = FIRST_DELAY_S
        while True:
            try:
                return await _heeding_cancels(operation)
            except (*_ABSENT, RedisError) as error:
                trouble = _trouble(error)
                is_late = asyncio.get_running_loop().time() + delay_s > deadline
                if not trouble.passes or is_late or (is_new_work and trouble.is_full):
                    raise BusError(f"Redis {trouble.text}") from error
                delay_s = await self.back_off(delay_s)

    async def call_forever(self, operation: Callable[[], Awaitable[T]]) -> T:
        """As `call`, for readers, which outlast any absence."""
        delay_s = FIRST_DELAY_S
        while True:
            try:
                return await _heeding_cancels(operation)
            except (*_ABSENT, RedisError) as error:
                trouble = _trouble(error)
                if not trouble.passes:
                    raise
                logger.debug("reader waits: Redis %s", trouble.text)
                delay_s = await self.back_off(delay_s)

    async def back_off(self, delay_s: float) -> float:
        """Waits about `delay_s`; returns the next delay."""
        metrics.RETRIES.inc()
        await asyncio.sleep(delay_s * random.uniform(0.5, 1.5))
        return min(2 * delay_s, MAX_DELAY_S)

    async def run(
        self,
        script: str,
        keys: Sequence[str],
        *arguments: str | bytes | float,
        patience_s: float | None = None,
        is_new_work: bool = False,
    ) -> object:
        """Runs one of the scripts above."""
        return await self.call(
            lambda: self.commands.register_script(script)(keys=list(keys), args=list(arguments)),
            patience_s,
            is_new_work,
        )

    async def close(self) -> None:
        await self.commands.aclose()

    def _connect(self, timeout_s: float) -> Redis:
        options: dict[str, Any] = {
            "decode_responses": False,
            "socket_timeout": timeout_s,
            "socket_connect_timeout": TIMEOUT_S,
            "socket_keepalive": True,
            # Retrying is done here, where it is counted and bounded.
            "retry": Retry(NoBackoff(), 0),
        }
        if self.config.password_file is not None:
            options["credential_provider"] = _PasswordFile(self.config.password_file)
        if self.config.ca_file is not None:
            options["ssl_ca_certs"] = str(self.config.ca_file)
        return Redis.from_pool(connect_pool(self.config, options))
