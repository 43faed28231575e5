"""Whether to draft at all, and by whom: whatever brings the most tokens per second at this load.

Pure. Drafting takes time from the target where they share cores, and messages where they do not;
what of that is hidden no model tells. So the ways to work are compared by what they bring, for
each power of two of requests in work: now and then another way is tried for a while, ever more
rarely as long as that finds nothing better. Plain decoding is tried only where it might win:
what it brings is known from the cost of a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
_SKIPPED_PASSES = 6
"""Of a try, at its start: requests still run in the company of the old way."""
_MAX_PATIENCE = 32
"""Most periods between two tries that find nothing better."""
_BETTER = 1.03
"""Only what brings so many times as much is more than chance."""
_HOPELESS = 0.85
"""Plain decoding that should bring less than this share of what another way does is not tried."""
_GLIMPSE_PASSES = 12
_LOSING = 0.8
"""A try that has brought less than this share of the best after so many passes ends early."""
_RATE = 0.3


@dataclass(slots=True)
class Level:
    """What is known of one level of load."""

    way: Way
    rates: dict[Way, float] = field(default_factory=dict)
    tried: Way | None = None
    """The way of this period, where it is not the best one known."""
    next_try: int = 0
    patience: int = 1
    backoff: int = 1
    num_passes: int = 0
    num_tokens: int = 0
    seconds: float = 0.0


class Drafting:
    """Chooses for one verifier."""

    def __init__(self, ways: Sequence[Way], plain_rate: Callable[[int], float]) -> None:
        """`ways` are those to choose from, the first one to begin with; `plain_rate` estimates the
        tokens per second of plain decoding of so many requests."""
        self._ways = ways
        self._plain_rate = plain_rate
        self._levels: dict[int, Level] = {}

    def way(self, num_running: int) -> Way:
        """How to work while so many requests are in work."""
        level = self._level(num_running)
        return level.tried or level.way

    def observe(self, num_running: int, num_tokens: int, seconds: float) -> None:
        """A pass: the tokens that it emitted, and the time since the one before it ended."""
        level = self._level(num_running)
        level.num_passes += 1
        if level.tried is None or level.num_passes > _SKIPPED_PASSES:
            level.num_tokens += num_tokens
            level.seconds += seconds
        is_over = level.num_passes >= _PERIOD_PASSES or _is_losing(level)
        if is_over and level.seconds > 0:
            self._decide(level, num_running)

    def _level(self, num_running: int) -> Level:
        size = num_running.bit_length()
        if size not in self._levels:
            near = min(self._levels, key=lambda other: abs(other - size), default=None)
            self._levels[size] = Level(self._ways[0] if near is None else self._levels[near].way)
        return self._levels[size]

    def _decide(self, level: Level, num_running: int) -> None:
        rate = level.num_tokens / level.seconds
        level.num_passes, level.num_tokens, level.seconds = 0, 0, 0.0
        way = level.tried or level.way
        known = level.rates.get(way)
        level.rates[way] = rate if known is None or level.tried else known + _RATE * (rate - known)
        if level.tried is not None:
            self._end_try(level, level.tried)
            return
        level.patience -= 1
        if level.patience <= 0:
            level.tried = self._choose(level, num_running)
            level.patience = level.backoff

    def _end_try(self, level: Level, tried: Way) -> None:
        level.tried = None
        if level.rates[tried] > _BETTER * level.rates.get(level.way, 0.0):
            level.way = tried
            level.backoff = 1
        else:
            level.backoff = min(2 * level.backoff, _MAX_PATIENCE)
        level.patience = level.backoff

    def _choose(self, level: Level, num_running: int) -> Way | None:
        """The next of the other ways, in turn."""
        others = [way for way in self._ways if way != level.way and way.num_lanes <= num_running]
        if self._plain_rate(num_running) < _HOPELESS * level.rates.get(level.way, 0.0):
            others = [way for way in others if way.drafters != "none"]
        level.next_try += 1
        return others[level.next_try % len(others)] if others else None


def _is_losing(level: Level) -> bool:
    if level.tried is None or level.num_passes < _GLIMPSE_PASSES:
        return False
    return level.num_tokens < _LOSING * level.rates.get(level.way, 0.0) * level.seconds
