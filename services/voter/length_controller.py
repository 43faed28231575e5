"""How many tokens to draft: hill climbing on the time per emitted token, beside plain decoding.

Pure. Minions (arXiv:2402.15678): generating N tokens takes N / vl(s) rounds of t(b, s) each, so
the length s is to minimise t / vl. Fit the linear trend over recent values; where it improves,
raise s by a step, where it worsens, lower it by a penalty step.

Length 0, plain decoding, is no point of that curve: the first drafted token brings the whole cost
of drafting with it. So the climb stays among lengths from 1 on, and now and then a look at the
other side decides whether to draft at all.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from math import inf

_REACH = 2
"""Lengths this near to the present one enter the fit; the curve is not a line further on."""
_MAX_PROBE_PATIENCE = 16
"""Most periods between two probes of a neighbouring length that find nothing better."""
_MAX_LOOK_PATIENCE = 32
"""Most periods between two looks at the other side that find nothing better."""
_PROGRESS = 0.95
"""Only what costs less than this share of what it is compared with is more than chance."""
_PERIOD_FACTOR = 4
"""A period ends after this many times the decision threshold, at whatever lengths."""


@dataclass(frozen=True, slots=True)
class LengthRule:
    """`decision_threshold` observations at the present length precede each decision, because
    rounds drafted with the old one are still under way after a change. `window` is in decisions.

    A look at plain decoding takes `plain_look` rounds: few, since it is dear where drafts pay, and
    its cost has no chance in it. The first `num_skipped` rounds of a look do not count: with many
    requests in work, they still run in the company of the old ways."""

    initial: int = 4
    max_length: int = 12
    decision_threshold: int = 16
    window: int = 16
    step: int = 1
    penalty_step: int = 1
    plain_look: int = 4
    num_skipped: int = 0


@dataclass(slots=True)
class Cost:
    """Sums over observations."""

    duration_s: float = 0.0
    num_emitted: int = 0
    num_rounds: int = 0

    def add(self, other: Cost) -> None:
        self.duration_s += other.duration_s
        self.num_emitted += other.num_emitted
        self.num_rounds += other.num_rounds


Period = dict[int, Cost]
"""Costs by the length that was asked for."""


def scaled(rule: LengthRule, size: int) -> LengthRule:
    """The rule for 2**(size - 1) requests in work and more: so many more rounds are under way
    after a change."""
    threshold = rule.decision_threshold * max(1, (1 << size) // 8)
    if size < 2:
        return replace(rule, plain_look=max(1, threshold // 4))
    return replace(
        rule, decision_threshold=threshold, plain_look=threshold, num_skipped=threshold // 2
    )


class LengthController:
    """The speculation length for one target model at one size of batch."""

    def __init__(self, rule: LengthRule) -> None:
        self._rule = rule
        self._climb = Climb(rule)
        self._is_plain = rule.initial == 0 or rule.max_length == 0
        self._is_looking = False
        """This period is spent on the side that is not the better one, as far as is known."""
        self._better_cost: float | None = None
        self._best_look = inf
        self._patience = self._backoff = 1
        self._period: Period = {}
        self._to_skip = 0

    @property
    def length(self) -> int:
        """What to ask for next."""
        return 0 if self._is_plain != self._is_looking else self._climb.length

    def observe(
        self, length: int, num_emitted: int, duration_s: float, num_rounds: int = 1
    ) -> None:
        """A round of one request, or several alike: the length asked for, the tokens emitted, and
        how long the request waited for them."""
        if self._rule.max_length == 0:
            return
        if self._to_skip > 0 and length == self.length:
            self._to_skip -= num_rounds
            return
        self._period.setdefault(length, Cost()).add(Cost(duration_s, num_emitted, num_rounds))
        present = self._period.get(self.length, Cost()).num_rounds
        in_all = sum(cost.num_rounds for cost in self._period.values())
        is_plain_look = self._is_looking and self.length == 0
        threshold = self._rule.plain_look if is_plain_look else self._rule.decision_threshold
        # A verifier may grant less than was told, for ever: then no round has the present length.
        if present >= threshold or in_all >= _PERIOD_FACTOR * threshold:
            self._decide()

    def _decide(self) -> None:
        drafted = {length: cost for length, cost in self._period.items() if length > 0}
        plain = {length: cost for length, cost in self._period.items() if length == 0}
        seen = _seconds_per_token(plain if self.length == 0 else drafted)
        if self.length > 0 and drafted:
            self._climb.decide(drafted)
        self._period = {}
        if self._is_looking:
            self._end_look(seen)
            return
        if seen is not None:
            old = self._better_cost
            self._better_cost = seen if old is None else (seen + old) / 2
        self._patience -= 1
        self._is_looking = self._patience <= 0
        if self._is_looking:
            self._to_skip = self._rule.num_skipped

    def _end_look(self, seen: float | None) -> None:
        """Stays on the other side if it was clearly cheaper. Each look in vain doubles the wait
        for the next one, but not while they get better: a climb may be on its way."""
        self._is_looking = False
        self._to_skip = 0
        best = inf if self._better_cost is None else self._better_cost
        is_cheaper = seen is not None and seen < _PROGRESS * best
        is_progress = seen is not None and seen < _PROGRESS * self._best_look
        self._best_look = min(seen or inf, self._best_look)
        if is_cheaper:
            self._is_plain = not self._is_plain
            self._better_cost = seen
            self._best_look = inf
        if is_cheaper or is_progress:
            self._backoff = 1
        else:
            self._backoff = min(2 * self._backoff, _MAX_LOOK_PATIENCE)
        self._patience = self._backoff


class Climb:
    """Hill climbing among the lengths from 1 on.

    The paper leaves open what "improving" is measured against. A trend over time would take the
    gain of a step *down* for a reason to go up, and the loss of a step below the optimum for one
    to go further down. So the trend is that of cost over *length*. It needs two lengths: where
    only one was tried of late, the next one is probed, ever more rarely as long as that does not
    pay.
    """

    def __init__(self, rule: LengthRule) -> None:
        self._rule = rule
        self.length = max(1, min(rule.initial, rule.max_length))
        self._window: deque[Period] = deque(maxlen=rule.window)
        self._patience = 0
        self._backoff = 1
        self._origin = self.length

    def decide(self, period: Period) -> None:
        """Moves by what a period of rounds cost; it must not be empty."""
        granted = max(period)
        top = granted if granted < self.length else self._rule.max_length
        self.length = min(self.length, top)
        self._window.append(period)
        trend = self._trend()
        if trend is None:
            wanted = self._probe(top)
        else:
            wanted = self.length + (self._rule.step if trend < 0 else -self._rule.penalty_step)
        self.length = min(max(wanted, 1), self._rule.max_length)
        if trend is not None and self.length != self._origin:
            self._backoff = 1

    def _probe(self, top: int) -> int:
        """One step off, up where possible; every failed one doubles the wait for the next."""
        if self._patience > 0:
            self._patience -= 1
            return self.length
        self._backoff = min(2 * self._backoff, _MAX_PROBE_PATIENCE)
        self._patience = self._backoff
        self._origin = self.length
        return self.length + (-self._rule.step if self.length >= top else self._rule.step)

    def _trend(self) -> float | None:
        """Least-squares slope, up to a positive factor, of seconds per token over length."""
        costs: Period = {}
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


def _seconds_per_token(period: Period) -> float | None:
    """None where nothing was observed."""
    total = Cost()
    for cost in period.values():
        total.add(cost)
    return total.duration_s / total.num_emitted if total.num_emitted else None
