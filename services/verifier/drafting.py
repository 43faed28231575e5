"""Whether to draft at all, and by whom: whatever brings the most tokens per second at this load.

Pure. Drafting takes time from the target where they share cores, and messages where they do not;
what of that is hidden no model tells. (Where they share all of them, nothing is: ways that draft
while a pass runs are not tried there.) So the ways to work are compared by their gain, which is the
tokens of a time over those that plain decoding should have brought in it, apart for each kind of
load: how many requests, to a power of two, and whether they are sampled.

The rule is optimism in the face of uncertainty. Of a way that is not at work is hoped, with each
period without it, that it brings 0.0025 of plain decoding more than it did, and when it promises
most it is tried. But a try may have met a busy machine, hard texts or drafters that had yet to
begin: after the first one hope grows 25 times as fast, after the second 6 times, after the third 3
times. So a way that has lost by 0.3 is tried again 5 periods later, then after 20, 44, 77 and 120.
In the long run tries of a way that brings a gain g cost 0.0025 / g of the time, twice as much of
that of a single request, and less where it loses so clearly that they end early. A kind of load
under which a way was never tried believes the one that knows most of it, less the farther it is.

What was tried nowhere promises what the cost of passes allows if drafting itself were free, and
hardly more than others of its like have brought; nor is more than that ever hoped for: under a load
that leaves drafts nothing to win nobody is asked for any. What looking up alone would bring shows
without a try: those that look up draft beside the others, and are right so and so often. Plain
decoding is known to bring what its passes cost until it was at work. It is at work until something
has shown to be clearly better, and while it is, only what promises as much is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf, sqrt
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

    @property
    def is_plain(self) -> bool:
        return self.drafters == "none"

    @property
    def needs_cores(self) -> bool:
        """Whether it is for drafters that have cores of their own while the target's passes run."""
        return self.ahead or self.num_lanes > 1


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

_FEWEST_LOOKED_UP, _FEWEST_IF_SAMPLED = 3, 5

_PERIOD_PASSES, _PERIOD_ROUNDS = 24, 48
"""A period has so many passes and, where drafts leave it to chance what they bring, rounds."""
_SKIPPED_PASSES = 3
"""Of a try, at its start: drafters have yet to read the texts."""
_FEWEST_PASSES = 6
"""Of a try, however bad it looks."""
_SPREAD = 1.0
"""Of a round's tokens, over their mean: a try that has lost by more than chance ends early."""
_OPTIMISM = 0.0025
"""By how much the promise of a way that is known well rises in a period without it."""
_LOOKUP_RATE = 0.02
"""A round's, in what looking up brings."""
_LOOKUP_ACCEPTANCE, _LOOKUP_SHARE = 0.75, 0.9
"""Of what looking up proposes and is worth verifying; and what is left of its gain by the time that
asking and voting take."""
_SURE = 5
"""Tries that make it so, and the tries or periods that are remembered."""
_KINSHIP = 1.1
"""Ways whose drafts are computed differ by no more."""
_BETTER = 1.03
"""Only what brings so many times as much is more than chance."""
_MANY, _BETTER_OF_MANY = 64, 1.06
"""Of so many requests what brings less is lost again: when some are done early, the others share
passes that are smaller and dearer by the token."""


def lookup_suffices(num_agreed: int, num_accepted: int, is_sampled: bool) -> bool:
    """Whether a request needs no computed draft in its next round: in the last one the best of
    those that look up agreed with so many of the target's tokens, while of the draft so many were
    accepted. Texts that repeat themselves go on to do so for a while, sampled ones a shorter
    one."""
    fewest = _FEWEST_IF_SAMPLED if is_sampled else _FEWEST_LOOKED_UP
    return num_agreed >= max(fewest, num_accepted)


@dataclass(frozen=True, slots=True)
class Load:
    """Requests, and how many of them are sampled rather than greedy: drafts of those are accepted
    less often."""

    num_running: int
    num_sampled: int

    @property
    def kind(self) -> tuple[int, int]:
        """What is learned apart: none, some or all sampled; and the size."""
        sampled = (self.num_sampled > 0) + (self.num_sampled == self.num_running > 0)
        return sampled, self.num_running.bit_length()


@dataclass(frozen=True, slots=True)
class Known:
    """Of a way under a kind of load: its gain, in how many tries it was seen, and in which period
    the last time."""

    gain: float
    num_tries: int
    period: int = 0

    def learned(self, gain: float, period: int) -> Known:
        """A period may have had a busy machine: what was known still counts."""
        num_tries = min(self.num_tries + 1, _SURE)
        return Known(self.gain + (gain - self.gain) / num_tries, num_tries, period)

    def promise(self, period: int) -> float:
        """The more the longer ago, and the sooner the less is known."""
        eagerness = (_SURE / self.num_tries) ** 2
        return self.gain + _OPTIMISM * eagerness * (period - self.period)


@dataclass(slots=True)
class Level:
    """One kind of load, and what is known of it."""

    kind: tuple[int, int]
    way: Way
    known: dict[Way, Known] = field(default_factory=dict)
    """Of ways that have been at work under it, and, from its passes' cost, of plain decoding."""
    tried: Way | None = None
    """The way of this period, where it is not the best one known."""
    period: int = 0
    num_passes: int = 0
    num_rounds: int = 0
    num_tokens: int = 0
    num_plain_tokens: float = 0.0
    """What plain decoding should have brought in the same time."""

    @property
    def better(self) -> float:
        """How many times as much another way has to bring."""
        return _BETTER_OF_MANY if self.kind[1] >= _MANY.bit_length() else _BETTER

    def is_over(self) -> bool:
        """Whether the period is."""
        is_plain = (self.tried or self.way).is_plain
        if self.num_passes >= _PERIOD_PASSES and (is_plain or self.num_rounds >= _PERIOD_ROUNDS):
            return self.num_plain_tokens > 0
        if self.tried is None or self.num_passes < _FEWEST_PASSES:
            return False
        chance = 1 + _SPREAD / sqrt(self.num_rounds)
        return chance * self.num_tokens < self.known[self.way].gain * self.num_plain_tokens

    def end_period(self) -> float:
        """Begins the next one; the gain of this one."""
        gain = self.num_tokens / self.num_plain_tokens
        self.period += 1
        self.num_passes, self.num_rounds = 0, 0
        self.num_tokens, self.num_plain_tokens = 0, 0.0
        return gain


class Drafting:
    """Chooses for one verifier."""

    def __init__(
        self,
        ways: Sequence[Way],
        plain_rate: Callable[[int], float],
        highest_gain: Callable[[Load], float] = lambda load: inf,
        has_cores: Callable[[], bool] = lambda: True,
    ) -> None:
        """`ways` are those to choose from, the first one to be tried first; `plain_rate` estimates
        the tokens per second of plain decoding of so many requests, `highest_gain` how many times
        as much drafts could bring, and `has_cores` says whether drafters have some of their own."""
        self._ways = ways
        self._plain_rate = plain_rate
        self._highest_gain = highest_gain
        self._has_cores = has_cores
        self._looked_up: dict[bool, float] = {}
        """Of the last rounds, greedy ones and sampled ones apart: with how many of the target's
        tokens the best of those that look up agreed."""
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
        if level.tried is None or level.num_passes > _SKIPPED_PASSES:
            level.num_rounds += load.num_running
            level.num_tokens += num_tokens
            level.num_plain_tokens += seconds * self._plain_rate(load.num_running)
        if level.is_over():
            self._decide(level, load)

    def observe_lookup(self, num_agreed: int, is_sampled: bool) -> None:
        """A round in which those that look up were asked, alone or among others: with how many of
        the target's tokens the best of them agreed."""
        known = self._looked_up.get(is_sampled, num_agreed)
        self._looked_up[is_sampled] = known + _LOOKUP_RATE * (num_agreed - known)

    def _level(self, load: Load) -> Level:
        """A new one decodes plainly, which is believed to bring what its passes cost, unless what
        promises most shows at once that it brings more."""
        kind = load.kind
        if kind not in self._levels:
            plain = next((way for way in self._ways if way.is_plain), None)
            level = Level(kind, plain or self._ways[0])
            if plain:
                level.known[plain] = Known(1.0, 0)
                level.tried = self._most_promising(level, load)
            self._levels[kind] = level
        return self._levels[kind]

    def _decide(self, level: Level, load: Load) -> None:
        """Ends a period: learns from it, and chooses the way of the next."""
        gain = level.end_period()
        worked = level.tried or level.way
        # Under another kind of load a way may bring something else: of that nothing is kept.
        before = level.known.get(worked, Known(gain, 0))
        known = level.known[worked] = before.learned(gain, level.period)
        if level.tried is not None:
            # Plain decoding brings what its passes cost, whatever one period says; and where it
            # makes no difference, nobody needs to draft.
            judged = known.gain * level.better if worked.is_plain else gain / level.better
            best = level.known[level.way]
            level.known[level.way] = replace(best, period=level.period)
            if judged > best.gain:
                level.way = worked
        level.tried = self._most_promising(level, load)

    def _most_promising(self, level: Level, load: Load) -> Way | None:
        """Of the other ways, if it promises more than the one at work brings; clearly more where
        that is plain decoding."""
        has_cores = self._has_cores()
        promises = {
            way: self._promise(way, level, load)
            for way in self._ways
            if way != level.way and way.num_lanes <= load.num_running
            if has_cores or not way.needs_cores
        }
        best = max(promises, key=promises.__getitem__, default=None)
        enough = level.known[level.way].gain * (level.better if level.way.is_plain else 1.0)
        return best if best and promises[best] > enough else None

    def _promise(self, way: Way, level: Level, load: Load) -> float:
        if way.is_plain and way in level.known:
            return level.better * replace(level.known[way], num_tries=_SURE).promise(level.period)
        plain = next((k.gain for w, k in level.known.items() if w.is_plain), 1.0)
        known = self._known(way, level)
        most = self._highest_gain(load)
        if way.drafters == "lookup":
            most = min(most, self._looked_up_gain(load))
        highest = plain * most
        if known:
            hoped = min(known.promise(level.period), highest)
            return max(known.gain, hoped) if way in level.known else hoped
        kin = [k.gain for w in self._ways if w.computes and (k := self._known(w, level))]
        return min(_KINSHIP * max(kin), highest) if way.computes and kin else highest

    def _looked_up_gain(self, load: Load) -> float:
        """What looking up alone should bring, by what it agreed with while others drafted as well;
        infinite as long as that is not known."""
        kinds = {load.num_sampled > 0, load.num_sampled == load.num_running}
        if not kinds <= self._looked_up.keys():
            return inf
        num_right = max(self._looked_up[is_sampled] for is_sampled in kinds)
        num_verified = round(load.num_running * (1 + num_right / _LOOKUP_ACCEPTANCE))
        seconds = load.num_running / self._plain_rate(load.num_running)
        rate = (1 + num_right) * self._plain_rate(num_verified) / num_verified
        return _LOOKUP_SHARE * rate * seconds

    def _known(self, way: Way, level: Level) -> Known | None:
        """Under this kind of load, or else under the one that knows most: each step between them
        counts as a try less."""
        if way in level.known:
            return level.known[way]
        seen = [
            (other.known[way].num_tries - _distance(other.kind, level.kind), other.known[way].gain)
            for other in self._levels.values()
            if way in other.known
        ]
        if not seen:
            return None
        num_tries, gain = max(seen)
        return Known(gain, max(1, num_tries))


def _distance(one: tuple[int, int], other: tuple[int, int]) -> int:
    return abs(one[0] - other[0]) + abs(one[1] - other[1])
