"""How many tokens to draft: hill climbing on the target's time per emitted token.

Pure. Minions (arXiv:2402.15678): generating N tokens takes N / vl(s) passes of t(b, s) each, so
the length s is to minimise t / vl. Fit the linear trend over recent values; where it improves,
raise s by a step, where it worsens, lower it by a penalty step.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_REACH = 2
"""Lengths this near to the present one enter the fit; the curve is not a line further on."""
_MAX_PATIENCE = 16
"""Most periods between two probes that find nothing better."""
_PERIOD_FACTOR = 4
"""A period ends after this many times the decision threshold, at whatever lengths."""


@dataclass(frozen=True, slots=True)
class LengthRule:
    """`decision_threshold` observations at the present length precede each decision, because
    rounds drafted with the old one are still under way after a change. `window` is in decisions."""

    initial: int = 4
    max_length: int = 12
    decision_threshold: int = 16
    window: int = 16
    step: int = 1
    penalty_step: int = 1


@dataclass(slots=True)
class Cost:
    """Sums over the observations of one length."""

    duration_s: float = 0.0
    num_emitted: int = 0
    num_rounds: int = 0

    def add(self, other: Cost) -> None:
        self.duration_s += other.duration_s
        self.num_emitted += other.num_emitted
        self.num_rounds += other.num_rounds


class LengthController:
    """The speculation length for one target model at one size of batch.

    The paper leaves open what "improving" is measured against. A trend over time would take the
    gain of a step *down* for a reason to go up, and the loss of a step below the optimum for one
    to go further down. So the trend is that of cost over *length*, each observation counted at
    the length that was asked for. It needs two lengths: where only one was tried of late (at a
    bound, 0 among them), the next one is probed, ever more rarely as long as that does not pay.
    """

    def __init__(self, rule: LengthRule) -> None:
        self._rule = rule
        self.length = min(rule.initial, rule.max_length)
        self._period: dict[int, Cost] = {}
        self._window: deque[dict[int, Cost]] = deque(maxlen=rule.window)
        self._patience = 0
        self._backoff = 1
        self._origin = self.length

    def observe(self, length: int, num_emitted: int, duration_s: float) -> None:
        """One round of one request: the length asked for, accepted tokens + 1, and the time of
        the whole pass, which is what the request waited for, whoever shared it."""
        self._period.setdefault(length, Cost()).add(Cost(duration_s, num_emitted, 1))
        present = self._period.get(self.length, Cost()).num_rounds
        in_all = sum(cost.num_rounds for cost in self._period.values())
        # A verifier may grant less than was told, for ever: then no round has the present length.
        threshold = self._rule.decision_threshold
        if present >= threshold or in_all >= _PERIOD_FACTOR * threshold:
            self._decide()

    def _decide(self) -> None:
        granted = max(self._period)
        top = granted if granted < self.length else self._rule.max_length
        self.length = min(self.length, top)
        self._window.append(self._period)
        self._period = {}
        trend = self._trend()
        if trend is None:
            wanted = self._probe(top)
        else:
            wanted = self.length + (self._rule.step if trend < 0 else -self._rule.penalty_step)
        self.length = min(max(wanted, 0), self._rule.max_length)
        if trend is not None and self.length != self._origin:
            self._backoff = 1

    def _probe(self, top: int) -> int:
        """One step off, up where possible; every failed one doubles the wait for the next."""
        if self._patience > 0:
            self._patience -= 1
            return self.length
        self._backoff = min(2 * self._backoff, _MAX_PATIENCE)
        self._patience = self._backoff
        self._origin = self.length
        return self.length + (-self._rule.step if self.length >= top else self._rule.step)

    def _trend(self) -> float | None:
        """Least-squares slope, up to a positive factor, of seconds per token over length."""
        costs: dict[int, Cost] = {}
        for period in self._window:
            for length, cost in period.items():
                if abs(length - self.length) <= _REACH:
                    costs.setdefault(length, Cost()).add(cost)
        if len(costs) < 2:
            return None
        points = [(x, c.duration_s / c.num_emitted, c.num_rounds) for x, c in costs.items()]
        total = sum(n for _, _, n in points)
        mean_x = sum(n * x for x, _, n in points) / total
        mean_y = sum(n * y for _, y, n in points) / total
        return sum(n * (x - mean_x) * (y - mean_y) for x, y, n in points)
