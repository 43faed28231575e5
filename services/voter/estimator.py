"""How likely the target is to follow a draft: learned, for every token, from who votes how surely.

Pure. The chance that the target goes on with a token, given that it has followed the draft so far,
is a logistic function of the votes: each drafter that proposes the token adds its part, each one
that proposes another token takes something away, both by how sure it is of itself (its margin).
What the parts are is learned online from each round's outcome, for losing candidates as well,
since the target's tokens do not depend on the draft. So a drafter's vote counts by how good it is
where it is that sure, and a sure drafter beats two that waver: the weighted majority of Minions
(arXiv:2402.15678) with weights by context, whose sums mean something.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, fsum, sqrt

from shared.tokens import common_length

_EDGES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Of margins, in units of logits over temperature."""
_PRIOR = (-0.6, -0.3, 0.0, 0.2, 0.4, 0.7, 1.0, 1.3, 1.6)
"""What the first drafters of a fresh voter are believed to add, by the same bins."""
EASE_EDGES = (0.2, 0.4, 0.6, 0.8, 0.95)
_LATER = _MANY = 3
"""Places from this one on in a draft are alike, and so many votes or more."""
_RATE = 0.3
_MEMORY = 0.998
"""Of how much was learned, a step: topics change."""
_EASE_RATE = 0.3
FIRST_EASE = 0.5
"""What is believed of a request that nothing is known of."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """One drafter's proposal, and how sure it is of each token, on a scale of its own."""

    drafter: str
    tokens: Sequence[int]
    margins: Sequence[float]


Feature = tuple[str, bool, int]
"""A drafter, whether it is for the token, and how sure; or with no drafter, how the votes stand,
or how easy the request is at which place."""


class Estimator:
    """What a voter has learned of the drafters of one target model."""

    def __init__(self) -> None:
        self._parts: dict[Feature, float] = {}
        self._steps: dict[Feature, float] = {}

    def draft(
        self, opinions: Sequence[Opinion], ease: float, max_length: int
    ) -> tuple[list[int], list[float]]:
        """The likeliest path through the proposals, level by level, and for each of its tokens the
        chance that the target follows that far. `ease` is the share of its drafts that the request
        had accepted lately."""
        path: list[int] = []
        survival: list[float] = []
        chance = 1.0
        while len(path) < max_length:
            votes = _votes(opinions, path)
            if not votes:
                break
            chances = {token: self._chance(_features(votes, token, len(path), ease))
                       for token in {token for _, token, _ in votes}}  # fmt: skip
            token = max(chances, key=lambda t: (chances[t], -t))
            chance *= chances[token]
            path.append(token)
            survival.append(chance)
        return path, survival

    def follow(self, path: Sequence[int], opinions: Sequence[Opinion], ease: float) -> list[float]:
        """The chances along a path that was chosen in another way."""
        survival = []
        chance = 1.0
        for depth, token in enumerate(path):
            votes = _votes(opinions, path[:depth])
            chance *= self._chance(_features(votes, token, depth, ease))
            survival.append(chance)
        return survival

    def learn(self, opinions: Sequence[Opinion], emitted: Sequence[int], ease: float) -> None:
        """From the target's tokens at the places of the proposals."""
        for depth, right in enumerate(emitted):
            votes = _votes(opinions, emitted[:depth])
            if not votes:
                break
            for token in sorted({token for _, token, _ in votes}):
                self._update(_features(votes, token, depth, ease), token == right)

    def _chance(self, features: Sequence[Feature]) -> float:
        # fsum: the order in which proposals arrived must not matter.
        return 1.0 / (1.0 + exp(-fsum(map(self._part, features))))

    def _part(self, feature: Feature) -> float:
        known = self._parts.get(feature)
        return _prior(feature) if known is None else known

    def _update(self, features: Sequence[Feature], is_right: bool) -> None:
        """One step of logistic regression, shorter for what was seen often (AdaGrad)."""
        error = is_right - self._chance(features)
        for feature in features:
            steps = _MEMORY * self._steps.get(feature, 1.0) + error * error
            self._steps[feature] = steps
            self._parts[feature] = self._part(feature) + _RATE * error / sqrt(steps)


def ease_after(ease: float, draft: Sequence[int], emitted: Sequence[int]) -> float:
    """The share of its drafts that a request had accepted lately, a round later. Tokens behind
    the first difference, or behind what was emitted, say nothing."""
    num_agreed = common_length(draft, emitted)
    num_compared = min(len(draft), len(emitted), num_agreed + 1)
    return ease + _EASE_RATE * (num_agreed / num_compared - ease) if num_compared else ease


def _votes(opinions: Sequence[Opinion], path: Sequence[int]) -> list[tuple[str, int, float]]:
    """Who is still on the path, with the next token and the margin."""
    depth = len(path)
    return [
        (o.drafter, o.tokens[depth], o.margins[depth] if depth < len(o.margins) else 0.0)
        for o in opinions
        if len(o.tokens) > depth and list(o.tokens[:depth]) == list(path)
    ]


def _features(
    votes: Sequence[tuple[str, int, float]], token: int, depth: int, ease: float
) -> list[Feature]:
    features = [
        (drafter, voted == token, bisect(_EDGES, margin)) for drafter, voted, margin in votes
    ]
    num_for = min(sum(voted == token for _, voted, _ in votes), _MANY)
    num_against = min(len(votes) - num_for, _MANY)
    features.append(("", True, (1 + _MANY) * num_for + num_against))
    features.append(("", False, (1 + _LATER) * bisect(EASE_EDGES, ease) + min(depth, _LATER)))
    return features


def _prior(feature: Feature) -> float:
    drafter, is_for, place = feature
    if not drafter:
        return 0.0
    return _PRIOR[place] if is_for else -_PRIOR[place] / 2 - 0.3
