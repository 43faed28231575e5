"""How much a drafter's vote counts: multiplicative updates from what the target emitted.

Pure. A weight tracks the drafter's recent agreement with one target model: the share of its
tokens that were the target's own, as far as they could be compared. One object per target; voter
replicas share the values through a board that multiplies and clamps (shared/bus/base.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp

from shared.tokens import common_length

_MAX_STEP = 1.25
"""A flush changes a weight by at most this factor: replicas that correct the same error at the
same time must not overshoot far. What is cut off is learned again from the next proposals."""


@dataclass(frozen=True, slots=True)
class WeightRule:
    """The update of one observation: weight *= exp(rate * num_compared * (agreement - threshold)),
    clamped into [low, high].

    Above the threshold a reward, below it a penalty, as in Minions (arXiv:2402.15678). Without a
    `threshold`, it is the weight itself: who does better than its weight says gains, who does
    worse loses, so that the weight settles at the recent agreement and follows when that changes.
    With a fixed threshold weights end at the bounds: all good drafters count the same.
    """

    rate: float = 0.1
    threshold: float | None = None
    low: float = 0.05
    high: float = 1.0


class Weights:
    """Weights of the drafters of one target model; 1.0, bounded, for one not seen before."""

    def __init__(self, rule: WeightRule) -> None:
        self._rule = rule
        self._view: dict[str, float] = {}
        self._factors: dict[str, float] = {}

    def of(self, drafter: str) -> float:
        """The drafter's weight, as far as this replica knows."""
        return self._view.get(drafter, self._clamp(1.0))

    def observe(self, drafter: str, proposed: Sequence[int], emitted: Sequence[int]) -> None:
        """Learns from one proposal and the tokens that the target emitted from its position on.

        Because the target's tokens do not depend on the draft, this holds for proposals that did
        not win as well. Tokens after the first difference, or after the last emitted token, are
        not compared: they say nothing.
        """
        num_agreed = common_length(proposed, emitted)
        num_compared = min(len(proposed), len(emitted), num_agreed + 1)
        if not num_compared:
            return
        old = self.of(drafter)
        threshold = old if self._rule.threshold is None else self._rule.threshold
        change = exp(self._rule.rate * (num_agreed - num_compared * threshold))
        new = self._clamp(old * change)
        self._view[drafter] = new
        self._factors[drafter] = self._factors.get(drafter, 1.0) * new / old

    def take_factors(self) -> dict[str, float]:
        """What has changed since the last call, to be multiplied into the shared board."""
        factors, self._factors = self._factors, {}
        return {name: min(max(f, 1 / _MAX_STEP), _MAX_STEP) for name, f in factors.items()}

    def put_back(self, factors: Mapping[str, float]) -> None:
        """Returns factors that did not reach the board."""
        for name, factor in factors.items():
            self._factors[name] = self._factors.get(name, 1.0) * factor

    def refresh(self, board: Mapping[str, float]) -> None:
        """Takes over the shared values; what was observed meanwhile stays on top of them."""
        for name, value in board.items():
            self._view[name] = self._clamp(value * self._factors.get(name, 1.0))

    def _clamp(self, weight: float) -> float:
        return min(max(weight, self._rule.low), self._rule.high)
