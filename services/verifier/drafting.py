"""Whether to draft at all, and by whom: whatever brings the most tokens per second at this load.

Pure. Drafting takes time from the target where they share cores, and messages where they do not;
what of that is hidden no model tells. So the ways to work are compared by what they bring, apart
for each kind of load: how many requests, to a power of two, and whether they are sampled. What is
known of a way that is not at work grows old: its promise rises by a hundredth each period, and when
it is the highest the way is tried. So a way is tried the more rarely the less it has brought, all
tries together cost a hundredth of the time for each way that there is, and when the way at work
brings less than before, the others are tried at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Literal

Drafters = Literal["all", "lookup", "none"]
"""Who drafts: all draft models, those that look up instead of computing, or nobody."""


@dataclass(frozen=True, slots=True)
class Way:
    """Who drafts; whether one pass waits for the drafts of all (one lane), or is run over those
    that are there while the others are being drafted (two); and whether drafters use the time of
    the passes to draft ahead."""

    drafters: Drafters
    num_lanes: int = 1
    ahead: bool = False


WAYS = {
    "all": Way("all"),
    "ahead": Way("all", ahead=True),
    "lanes": Way("all", 2),
    "lookup": Way("lookup"),
    "none": Way("none"),
}
"""By the names that settings use."""

_PERIOD_PASSES = 24
_SKIPPED_PASSES = 4
"""Of a try, at its start: drafters have yet to read the texts."""
_GLIMPSE_PASSES = 8
_LOSING = 0.8
"""A try that has brought less than this share of the best after so many passes ends early."""
_OPTIMISM = 0.01
"""By how much the promise of a way rises in a period without it."""
_BETTER = 1.03
"""Only what brings so many times as much is more than chance."""
_RATE = 0.3


@dataclass(frozen=True, slots=True)
class Load:
    """The requests in work, and how many of them are sampled rather than greedy: drafts of those
    are accepted less often."""

    num_running: int
    num_sampled: int

    @property
    def kind(self) -> tuple[int, int]:
        """What is learned apart: none, some or all sampled; and the size."""
        sampled = (self.num_sampled > 0) + (self.num_sampled == self.num_running > 0)
        return sampled, self.num_running.bit_length()


@dataclass(slots=True)
class Known:
    """Of a way: tokens per second when it was last at work, and how many periods ago."""

    rate: float
    age: int = 0

    @property
    def promise(self) -> float:
        return self.rate * (1 + _OPTIMISM * self.age)


@dataclass(slots=True)
class Level:
    """What is known of one kind of load."""

    way: Way
    known: dict[Way, Known] = field(default_factory=dict)
    tried: Way | None = None
    """The way of this period, where it is not the best one known."""
    num_passes: int = 0
    num_tokens: int = 0
    seconds: float = 0.0

    def is_over(self) -> bool:
        """Whether the period is."""
        if self.num_passes >= _PERIOD_PASSES:
            return self.seconds > 0
        if self.tried is None or self.num_passes < _GLIMPSE_PASSES:
            return False
        return self.num_tokens < _LOSING * self.known[self.way].rate * self.seconds


class Drafting:
    """Chooses for one verifier."""

    def __init__(self, ways: Sequence[Way], plain_rate: Callable[[int], float]) -> None:
        """`ways` are those to choose from, the first one to begin with; `plain_rate` estimates the
        tokens per second of plain decoding of so many requests."""
        self._ways = ways
        self._plain_rate = plain_rate
        self._levels: dict[tuple[int, int], Level] = {}

    def way(self, load: Load) -> Way:
        """How to work under this load."""
        level = self._level(load)
        return level.tried or level.way

    def observe(self, load: Load, num_tokens: int, seconds: float) -> None:
        """A pass: the tokens that it emitted, and the time since the one before it ended."""
        level = self._level(load)
        level.num_passes += 1
        if level.tried is None or level.num_passes > _SKIPPED_PASSES:
            level.num_tokens += num_tokens
            level.seconds += seconds
        if level.is_over():
            self._decide(level, load.num_running)

    def _level(self, load: Load) -> Level:
        """A new one begins as the nearest one works."""
        kind = load.kind
        if kind not in self._levels:

            def distance(other: tuple[int, int]) -> tuple[int, int]:
                return abs(other[0] - kind[0]), abs(other[1] - kind[1])

            near = min(self._levels, key=distance, default=None)
            self._levels[kind] = Level(self._ways[0] if near is None else self._levels[near].way)
        return self._levels[kind]

    def _decide(self, level: Level, num_running: int) -> None:
        """Ends a period: learns from it, and chooses the way of the next."""
        rate = level.num_tokens / level.seconds
        level.num_passes, level.num_tokens, level.seconds = 0, 0, 0.0
        for known in level.known.values():
            known.age += 1
        if level.tried is not None:
            level.known[level.tried] = Known(rate)
            if rate > _BETTER * level.known[level.way].rate:
                level.way = level.tried
        else:
            before = level.known.get(level.way, Known(rate)).rate
            level.known[level.way] = Known(before + _RATE * (rate - before))
        level.tried = self._most_promising(level, num_running)

    def _most_promising(self, level: Level, num_running: int) -> Way | None:
        """Of the other ways, if it promises more than the one at work brings. What has never been
        tried promises most, but plain decoding what its passes cost."""
        promises: dict[Way, float] = {}
        for way in self._ways:
            if way == level.way or way.num_lanes > num_running:
                continue
            if way.drafters == "none" and way not in level.known:
                level.known[way] = Known(self._plain_rate(num_running))
            promises[way] = level.known[way].promise if way in level.known else inf
        best = max(promises, key=promises.__getitem__, default=None)
        if best is None or promises[best] <= level.known[level.way].rate:
            return None
        return best
