"""Whether to draft at all, and by whom: whatever brings the most tokens per second at this load.

Pure. Drafting takes time from the target where they share cores, and messages where they do not;
what of that is hidden no model tells. So the ways to work are compared by their gain, which is the
tokens of a time over those that plain decoding should have brought in it, apart for each kind of
load: how many requests, to a power of two, and whether they are sampled. What is known of a way
that is not at work grows old: its promise rises by a two-hundredth each period, and when it is the
highest the way is tried. So a way is tried the more rarely the less it has brought, all tries
together cost half a hundredth of the time for each way there is, and when the way at work brings
less than before, the others are tried at once. A new kind of load knows what the nearest one does.

What has never been tried promises what the cost of passes allows if drafting itself were free, and
no more than a little beyond what others of its like have brought: under a load that leaves drafts
nothing to win nobody is asked for any. Plain decoding is known to bring what its passes cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Literal

Drafters = Literal["all", "needed", "lookup", "none"]
"""Who drafts: all draft models; those that compute only where looking up does not do (see
`lookup_suffices`); those that look up; or nobody."""


@dataclass(frozen=True, slots=True)
class Way:
    """Who drafts; whether one pass waits for the drafts of all (one lane), or is run over those
    that are there while the others are being drafted (two); and whether drafters use the time of
    the passes to draft ahead."""

    drafters: Drafters
    num_lanes: int = 1
    ahead: bool = False

    @property
    def computes(self) -> bool:
        """Whether draft models do, rather than tables."""
        return self.drafters in ("all", "needed")


WAYS = {
    "all": Way("all"),
    "needed": Way("needed"),
    "ahead": Way("all", ahead=True),
    "lanes": Way("needed", 2),
    "lookup": Way("lookup"),
    "none": Way("none"),
}
"""By the names that settings use."""
AUTO = tuple(way for name, way in WAYS.items() if name != "all")
"""Those to choose from. Nowhere is it better to ask all than to ask them as needed."""

_FEWEST_LOOKED_UP = 3

_PERIOD_PASSES, _PERIOD_ROUNDS = 24, 72
"""A period has so many passes, and rounds of requests: chance shall not decide."""
_SKIPPED_PASSES = 4
"""Of a try, at its start: drafters have yet to read the texts."""
_GLIMPSE_PASSES = 8
_LOSING = 0.8
_CLEAR_PASSES = 14
_LAGGING = 0.93
"""A try that has brought less than this share of the best after so many passes ends early."""
_KINSHIP = 1.1
"""Ways whose drafts are computed differ by no more."""
_OPTIMISM = 0.005
"""By how much the promise of a way rises in a period without it."""
_BORROWED_AGE = 10
"""Of what is known from another kind of load, periods more for each step between them."""
_BETTER = 1.03
"""Only what brings so many times as much is more than chance."""
_RATE, _TRY_RATE = 0.3, 0.5
"""Of what is known, the part that a period at work and a try replace."""


def lookup_suffices(num_agreed: int, num_accepted: int) -> bool:
    """Whether a request needs no computed draft in its next round: in the last one the best of
    those that look up agreed with so many of the target's tokens, while of the draft so many were
    accepted. Texts that repeat themselves go on to do so for a while."""
    return num_agreed >= max(_FEWEST_LOOKED_UP, num_accepted)


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


@dataclass(frozen=True, slots=True)
class Known:
    """Of a way: its gain when it was last at work, and how many periods ago."""

    gain: float
    age: int = 0
    is_lent: bool = False
    """By another kind of load, and not seen under this one."""

    @property
    def promise(self) -> float:
        return self.gain * (1 + _OPTIMISM * self.age)

    def older(self, periods: int) -> Known:
        return Known(self.gain, self.age + periods, self.is_lent)

    def lent(self, distance: int) -> Known:
        return Known(self.gain, self.age + _BORROWED_AGE * distance, True)


@dataclass(slots=True)
class Level:
    """What is known of one kind of load."""

    way: Way
    known: dict[Way, Known] = field(default_factory=dict)
    tried: Way | None = None
    """The way of this period, where it is not the best one known."""
    num_passes: int = 0
    num_rounds: int = 0
    num_tokens: int = 0
    num_plain_tokens: float = 0.0
    """What plain decoding should have brought in the same time."""

    def is_over(self) -> bool:
        """Whether the period is."""
        if self.num_passes >= _PERIOD_PASSES and self.num_rounds >= _PERIOD_ROUNDS:
            return self.num_plain_tokens > 0
        if self.tried is None or self.num_passes < _GLIMPSE_PASSES:
            return False
        is_clear = self.num_passes >= _CLEAR_PASSES and self.num_rounds >= _PERIOD_ROUNDS
        share = _LAGGING if is_clear else _LOSING
        return self.num_tokens < share * self.known[self.way].gain * self.num_plain_tokens


class Drafting:
    """Chooses for one verifier."""

    def __init__(
        self,
        ways: Sequence[Way],
        plain_rate: Callable[[int], float],
        highest_gain: Callable[[Load], float] = lambda load: inf,
    ) -> None:
        """`ways` are those to choose from, the first one to be tried first; `plain_rate` estimates
        the tokens per second of plain decoding of so many requests, `highest_gain` how many times
        as much drafts could bring."""
        self._ways = ways
        self._plain_rate = plain_rate
        self._highest_gain = highest_gain
        self._levels: dict[tuple[int, int], Level] = {}

    def way(self, load: Load) -> Way:
        """How to work under this load."""
        if load.num_running == 0:
            return self._ways[0]
        level = self._level(load)
        return level.tried or level.way

    def observe(self, load: Load, num_tokens: int, seconds: float) -> None:
        """A pass: the tokens that it emitted, and the time since the one before it ended."""
        level = self._level(load)
        level.num_passes += 1
        level.num_rounds += load.num_running
        if level.tried is None or level.num_passes > _SKIPPED_PASSES:
            level.num_tokens += num_tokens
            level.num_plain_tokens += seconds * self._plain_rate(load.num_running)
        if level.is_over():
            self._decide(level, load)

    def _level(self, load: Load) -> Level:
        """A new one believes what the nearest one knows. It decodes plainly unless what promises
        most shows at once that it brings more."""
        kind = load.kind
        if kind not in self._levels:
            near = min(self._levels, key=lambda other: _distance(other, kind), default=None)
            plain = next((way for way in self._ways if way.drafters == "none"), None)
            way = plain or self._ways[0]
            known = {way: Known(1.0)} if plain else {}
            if near is not None:
                distance = sum(_distance(near, kind))
                lender = self._levels[near]
                way = plain or lender.way
                known = {way: what.lent(distance) for way, what in lender.known.items()}
            level = self._levels[kind] = Level(way, known)
            if way in known:
                level.tried = self._most_promising(level, load)
        return self._levels[kind]

    def _decide(self, level: Level, load: Load) -> None:
        """Ends a period: learns from it, and chooses the way of the next."""
        gain = level.num_tokens / level.num_plain_tokens
        level.num_passes, level.num_rounds = 0, 0
        level.num_tokens, level.num_plain_tokens = 0, 0.0
        worked = level.tried or level.way
        for way in level.known.keys() - {level.way}:
            level.known[way] = level.known[way].older(1)
        is_plain = worked.drafters == "none"
        known = self._learned(level.known.get(worked), gain, level.tried is not None, is_plain)
        level.known[worked] = known
        if level.tried is not None:
            # Where it makes no difference, nobody needs to draft.
            judged, enough = (known.gain, 1.0) if is_plain else (gain, _BETTER)
            if judged > enough * level.known[level.way].gain:
                level.way = worked
        level.tried = self._most_promising(level, load)

    @staticmethod
    def _learned(before: Known | None, gain: float, is_try: bool, is_plain: bool) -> Known:
        """A period may have had a busy machine: what was known still counts, unless another load
        lent it. Of plain decoding the cost of its passes always says more than one period."""
        if before is None or (before.is_lent and not is_plain):
            return Known(gain)
        rate = _TRY_RATE if is_try else _RATE
        return Known(before.gain + rate * (gain - before.gain))

    def _most_promising(self, level: Level, load: Load) -> Way | None:
        """Of the other ways, if it promises more than the one at work brings."""
        promises = {
            way: self._promise(way, level, load)
            for way in self._ways
            if way != level.way and way.num_lanes <= load.num_running
        }
        best = max(promises, key=promises.__getitem__, default=None)
        return best if best and promises[best] > level.known[level.way].gain else None

    def _promise(self, way: Way, level: Level, load: Load) -> float:
        if way in level.known:
            return level.known[way].promise
        plain = next((k.gain for w, k in level.known.items() if w.drafters == "none"), 1.0)
        highest = plain * self._highest_gain(load) / _BETTER
        kin = [what.promise for other, what in level.known.items() if other.computes]
        return min(_KINSHIP * max(kin), highest) if way.computes and kin else highest


def _distance(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return abs(one[0] - other[0]), abs(one[1] - other[1])
