"""Dead letters on Redis: a stream beside each topic, whose entries may go back."""

from __future__ import annotations

import math
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from shared.bus import metrics
from shared.bus.base import DeadLetter
from shared.bus.redis_client import FIELD, TIMEOUT_S, Entry, RedisClient
from shared.errors import BusError

PAGE = 16
"""Letters read at a time: each may be as long as a message."""
SCANNED = 1000
# A revival has a key of its own for a while, as a publication has: one that is tried again is one.
REVIVE = """
if redis.call('EXISTS', KEYS[3]) == 1 then return 1 end
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return 0 end
if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[2]) then return -1 end
redis.call('SET', KEYS[3], '', 'EX', ARGV[3])
redis.call('XADD', KEYS[2], '*', ARGV[4], ARGV[5])
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
"""


async def dead_letters(client: RedisClient) -> AsyncIterator[DeadLetter]:
    """Those of all topics, by name, oldest first."""
    prefix = client.key("dead", "")
    for key in await _keys(client, f"{prefix}*"):
        async for letter in _of(client, key, key.removeprefix(prefix)):
            yield letter


async def revive(client: RedisClient, letter: DeadLetter, data: bytes) -> bool:
    """In one step. Raises BusError for a full topic."""
    limit = client.config.max_topic_messages
    keys = [
        client.key("dead", letter.topic),
        client.key("topic", letter.topic),
        client.key("published", uuid.uuid4().hex),
    ]
    kept_s = math.ceil(client.config.retry_s + 2 * TIMEOUT_S)
    answer = await client.run(
        REVIVE, keys, letter.letter_id, limit, kept_s, FIELD, data, is_new_work=True
    )
    if answer == -1:
        metrics.TOPIC_FULL.labels(letter.topic).inc()
        raise BusError(f"topic {letter.topic} holds its {limit} messages already")
    return answer == 1


async def _keys(client: RedisClient, pattern: str) -> list[str]:
    # redis-py's annotations leave open what its commands answer.
    scan: Callable[..., Awaitable[Any]] = client.commands.scan
    found: set[str] = set()
    cursor = 0
    while True:
        page = partial(scan, cursor, match=pattern, count=SCANNED)
        cursor, keys = await client.call(page)
        found |= {key.decode() for key in keys}
        if cursor == 0:
            return sorted(found)


async def _of(client: RedisClient, key: str, topic: str) -> AsyncIterator[DeadLetter]:
    xrange: Callable[..., Awaitable[Any]] = client.commands.xrange
    start = "-"
    while True:
        page = partial(xrange, key, start, "+", count=PAGE)
        entries: list[Entry] = await client.call(page)
        for entry, fields in entries:
            letter_id = entry.decode()
            buried = int(letter_id.partition("-")[0]) / 1000
            reason = fields.get(b"reason", b"").decode(errors="replace")
            yield DeadLetter(topic, letter_id, buried, reason, fields.get(FIELD, b""))
            start = f"({letter_id}"
        if len(entries) < PAGE:
            return
