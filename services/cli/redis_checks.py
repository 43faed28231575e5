"""The checks of `doctor` that look at the Redis server."""

from __future__ import annotations

from collections.abc import Iterator

from services.cli.findings import Finding, fail, ok, warn
from shared.bus.redis_facts import ServerFacts, server_facts
from shared.config import BusConfig
from shared.errors import BusError

LEAST = (6, 2)
PATIENCE_S = 3.0
FULL = 0.8


async def redis(config: BusConfig) -> list[Finding]:
    """Of the server that the bus is on; none where it is within the process."""
    if config.url.startswith("memory:"):
        return [ok("Redis", "not needed: without BUS_URL all services run in one process")]
    shown = str(config.effective()["BUS_URL"])
    try:
        facts = await server_facts(config.model_copy(update={"retry_s": PATIENCE_S}))
    except BusError as error:
        return [fail("Redis", f"{shown}: {error}", "start it, or mend BUS_URL")]
    return list(judge(facts, shown))


def judge(facts: ServerFacts, shown: str) -> Iterator[Finding]:
    """What Quorum's promises rest on."""
    version = ".".join(map(str, facts.version))
    if facts.version < LEAST:
        yield fail("Redis", f"{version} at {shown}", "Quorum needs 6.2 or newer")
    else:
        yield ok("Redis", f"{version} at {shown}")
    yield _eviction(facts)
    yield _persistence(facts)
    if facts.max_memory and facts.used_memory > FULL * facts.max_memory:
        share = facts.used_memory / facts.max_memory
        yield warn(
            "memory", f"Redis holds {share:.0%} of what it may", "raise maxmemory before it is full"
        )


def _eviction(facts: ServerFacts) -> Finding:
    policy = facts.eviction_policy
    advice = "CONFIG SET maxmemory-policy noeviction"
    if policy == "noeviction":
        return ok("eviction", "none: a full server refuses new work and loses none")
    if facts.max_memory:
        return fail("eviction", f"{policy}: a full server drops accepted requests", advice)
    return warn("eviction", f"{policy}, without a maxmemory to begin at", advice)


def _persistence(facts: ServerFacts) -> Finding:
    if facts.last_write_failed:
        return fail("persistence", "the last write to disk failed", "look at its disk and its log")
    if not facts.is_append_only:
        return warn(
            "persistence",
            "no append-only file: requests do not survive the server",
            "CONFIG SET appendonly yes",
        )
    return ok("persistence", "append-only file")
