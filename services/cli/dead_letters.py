"""`dead-letters`: what the bus has put aside, and the way back into its topic."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from services.cli.tables import aligned
from shared.bus import Bus, DeadLetter, connect
from shared.codec import decode, encode
from shared.config import BusConfig
from shared.errors import ConfigError, MessageError, QuorumError
from shared.wire import plain, replace

T = TypeVar("T")
HEAD = ("id", "put aside", "topic", "type", "request", "why")
PATIENCE_S = 5.0
"""With a bus that is away: somebody sits before a terminal."""
MAX_SHOWN = 64
"""Values of a list; a prompt has thousands."""


class LetterError(QuorumError):
    """No such letter, or more than one."""

    code = "not_found"


@dataclass(frozen=True, slots=True)
class Read:
    """A letter's message, if it is one."""

    letter: DeadLetter
    message: Any
    trouble: str

    @property
    def type(self) -> str:
        return "malformed" if self.message is None else type(self.message).__name__

    @property
    def request_id(self) -> str:
        return str(getattr(self.message, "request_id", "-"))

    @property
    def name(self) -> str:
        """Unique among all topics."""
        return f"{self.letter.topic}/{self.letter.letter_id}"


def read(letter: DeadLetter) -> Read:
    try:
        return Read(letter, decode(letter.data), "")
    except MessageError as error:
        return Read(letter, None, str(error))


async def on_the_bus(config: BusConfig, work: Callable[[Bus], Awaitable[T]]) -> T:
    """Does the work there. Raises ConfigError for a bus that others cannot reach."""
    if config.url.startswith("memory:"):
        raise ConfigError("BUS_URL=memory:// lies within one process; dead letters are on a server")
    bus = connect(config.model_copy(update={"retry_s": min(config.retry_s, PATIENCE_S)}))
    try:
        return await work(bus)
    finally:
        await bus.close()


async def listed(bus: Bus, topic: str | None) -> list[str]:
    """The lines of `list`."""
    rows = []
    async for letter in bus.dead_letters():
        if topic in (None, letter.topic):
            told = read(letter)
            when = f"{_time(letter.buried)}Z"
            cells = (letter.letter_id, when, letter.topic, told.type, told.request_id)
            rows.append((*cells, " ".join(letter.reason.split())))
    if not rows:
        return ["no dead letters"]
    return list(aligned(HEAD, rows))


async def find(bus: Bus, wanted: str) -> Read:
    """By its id, or TOPIC/ID where several topics have one of that id. Raises LetterError."""
    found = [
        told
        async for letter in bus.dead_letters()
        if wanted in (letter.letter_id, (told := read(letter)).name)
    ]
    if not found:
        raise LetterError(f"no dead letter {wanted!r}; `dead-letters list` shows those there are")
    if len(found) > 1:
        names = ", ".join(told.name for told in found)
        raise LetterError(f"{wanted} is ambiguous: {names}")
    return found[0]


def shown(told: Read) -> Iterator[str]:
    """The lines of `show`."""
    letter = told.letter
    yield f"id         {told.name}"
    yield f"put aside  {_time(letter.buried)}Z"
    yield f"why        {letter.reason}"
    yield f"type       {told.type}, {len(letter.data)} bytes"
    if told.message is None:
        yield f"malformed  {told.trouble}"
        yield f"begins     {letter.data[:MAX_SHOWN]!r}"
    else:
        yield json.dumps(_brief(plain(told.message)), indent=2, ensure_ascii=True)


async def replay(bus: Bus, told: Read, timeout_s: float) -> bool:
    """Puts it back into its topic, with `timeout_s` from now to be answered in: its own deadline
    has most likely passed. False if somebody else has been faster. What cannot be read goes back
    as it is: another version of Quorum may read it."""
    data = told.letter.data
    if hasattr(told.message, "deadline"):
        data = encode(replace(told.message, deadline=bus.now() + timeout_s))
    return await bus.revive(told.letter, data)


async def replay_all(bus: Bus, topic: str | None, timeout_s: float) -> int:
    """Those that are there now, not what comes back meanwhile; how many went."""
    there = [
        (letter.topic, letter.letter_id)
        async for letter in bus.dead_letters()
        if topic in (None, letter.topic)
    ]
    wanted, num_replayed = set(there), 0
    async for letter in bus.dead_letters():
        if (letter.topic, letter.letter_id) in wanted:
            num_replayed += await replay(bus, read(letter), timeout_s)
    return num_replayed


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _brief(value: object) -> object:
    """For JSON, long lists and bytes cut."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, dict):
        return {str(key): _brief(inner) for key, inner in value.items()}
    if isinstance(value, list):
        cut = [_brief(inner) for inner in value[:MAX_SHOWN]]
        return cut if len(value) <= MAX_SHOWN else [*cut, f"... {len(value)} in all"]
    return value
