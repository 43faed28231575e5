"""How many replicas a service should have, from samples of its load. No clock, no I/O.

Up is quick and in proportion, as Kubernetes' HorizontalPodAutoscaler does it; down is slow, one at
a time, and never to where the same load would ask for a step up again: a steady load cannot flap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MARGIN = 0.9
"""Load that one replica less would bring just below `high` goes up again by chance."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Bounds of a service, and what counts as too much and too little."""

    min_replicas: int
    max_replicas: int
    high: float = 0.8
    """The mean utilisation above which replicas are added, and which these are to come down to."""
    low: float = 0.4
    """Below it a sample is calm."""
    max_queue_age_s: float = 1.0
    cool_down_s: float = 60.0
    calm_samples: int = 12
    """So many in a row before a step down."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen of a service at a time. A replica that did not tell its utilisation, since it
    starts or hangs, is one of `replicas` all the same."""

    at: float
    replicas: int
    utilisations: Sequence[float]
    queue_age_s: float = 0.0

    @property
    def load(self) -> float:
        """How many replicas would be busy all the time with the work of those that answered."""
        return sum(self.utilisations)


class Controller:
    """Fed with the samples of one service, in order, answers each with the replicas wanted."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._replicas: int | None = None
        self._quiet_until = -math.inf
        self._num_calm = 0

    def wanted(self, sample: Sample) -> int:
        """The replicas that the service should have now: `sample.replicas` to leave it alone, else
        a number within the bounds, or one step towards them. A change from outside starts a
        cool-down as an own one does."""
        if self._replicas not in (None, sample.replicas):
            self._changed(sample.at)
        self._replicas = sample.replicas
        self._num_calm = self._num_calm + 1 if self._is_calm(sample) else 0
        if sample.at < self._quiet_until:
            return sample.replicas
        wanted = self._aim(sample)
        if wanted != sample.replicas:
            self._changed(sample.at)
        return wanted

    def _changed(self, at: float) -> None:
        self._quiet_until = at + self._rule.cool_down_s
        self._num_calm = 0

    def _aim(self, sample: Sample) -> int:
        rule, replicas = self._rule, sample.replicas
        if replicas < rule.min_replicas:
            return rule.min_replicas
        if replicas > rule.max_replicas:
            return replicas - 1
        busy = max(self._for_utilisation(sample), self._for_queue(sample))
        if busy > replicas:
            return min(busy, rule.max_replicas)
        if self._num_calm >= rule.calm_samples and replicas > rule.min_replicas:
            return replicas - 1
        return replicas

    def _for_utilisation(self, sample: Sample) -> int:
        """As many as bring the utilisation down to `high`, if it is above."""
        if sample.load <= self._rule.high * len(sample.utilisations):
            return 0
        return math.ceil(sample.load / self._rule.high)

    def _for_queue(self, sample: Sample) -> int:
        """One more while the oldest message waits for too long: how much work waits is unknown."""
        return sample.replicas + 1 if sample.queue_age_s > self._rule.max_queue_age_s else 0

    def _is_calm(self, sample: Sample) -> bool:
        """Whether one replica less would do. A replica that says nothing may be the busiest."""
        rule = self._rule
        return (
            len(sample.utilisations) == sample.replicas
            and sample.queue_age_s <= rule.max_queue_age_s
            and sample.load < rule.low * sample.replicas
            and sample.load < MARGIN * rule.high * (sample.replicas - 1)
        )
