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
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, fsum, sqrt

from shared.tokens import common_length

_EDGES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Of margins, in units of logits over temperature."""
_PRIOR = (-0.6, -0.3, 0.0, 0.2, 0.4, 0.7, 1.0, 1.3, 1.6)
"""What the first drafters of a fresh voter are believed to add, by the same bins."""
EASE_EDGES = (0.2, 0.4, 0.6, 0.8, 0.95)
_LATER, _MANY = 3, 4
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


class Parts:
    """What a thing adds to the chance, in each of the ways that it can be."""

    __slots__ = ("steps", "values")

    def __init__(self, values: Iterable[float]) -> None:
        self.values = list(values)
        self.steps = [1.0] * len(self.values)
        """Of learning, squared and forgotten with time."""


Feature = tuple[Parts, int]
"""Something that counts for a token, and in which of its ways it is there."""


class Trust:
    """What is believed of one drafter."""

    __slots__ = ("others", "own")

    def __init__(self) -> None:
        self.own = Parts(_PRIOR)
        """For the token that it proposes, by how sure it is."""
        self.others = Parts(-part / 2 - 0.3 for part in _PRIOR)


class Voice:
    """An opinion that is still on the path."""

    __slots__ = ("sureness", "tokens", "trust")

    def __init__(self, trust: Trust, opinion: Opinion) -> None:
        self.trust = trust
        self.tokens = opinion.tokens
        self.sureness = [bisect(_EDGES, margin) for margin in opinion.margins]
        self.sureness += [0] * (len(self.tokens) - len(self.sureness))


class Estimator:
    """What a voter has learned of the drafters of one target model."""

    def __init__(self) -> None:
        self._trust: defaultdict[str, Trust] = defaultdict(Trust)
        self._stands = Parts([0.0] * (1 + _MANY) ** 2)
        """By how many are for a token and how many for others."""
        self._places = Parts([0.0] * ((1 + _LATER) * (1 + len(EASE_EDGES))))
        """By how easy the request is, and how far into the draft."""

    def draft(
        self, opinions: Sequence[Opinion], ease: float, max_length: int
    ) -> tuple[list[int], list[float]]:
        """The likeliest path through the proposals, level by level, and for each of its tokens the
        chance that the target follows that far. `ease` is the share of its drafts that the request
        had accepted lately."""
        path: list[int] = []
        survival: list[float] = []
        chance = 1.0
        voices = self._voices(opinions)
        places = _first_place(ease)
        while len(path) < max_length:
            depth = len(path)
            if not (voices := [voice for voice in voices if len(voice.tokens) > depth]):
                break
            chances = {
                token: _chance(self._features(voices, token, depth, places))
                for token in {voice.tokens[depth] for voice in voices}
            }
            token = max(chances, key=lambda t: (chances[t], -t))
            chance *= chances[token]
            path.append(token)
            survival.append(chance)
            voices = [voice for voice in voices if voice.tokens[depth] == token]
        return path, survival

    def follow(self, path: Sequence[int], opinions: Sequence[Opinion], ease: float) -> list[float]:
        """The chances along a path that was chosen in another way."""
        survival = []
        chance = 1.0
        voices = self._voices(opinions)
        places = _first_place(ease)
        for depth, token in enumerate(path):
            voices = [voice for voice in voices if len(voice.tokens) > depth]
            chance *= _chance(self._features(voices, token, depth, places))
            survival.append(chance)
            voices = [voice for voice in voices if voice.tokens[depth] == token]
        return survival

    def learn(self, opinions: Sequence[Opinion], emitted: Sequence[int], ease: float) -> None:
        """From the target's tokens at the places of the proposals."""
        voices = self._voices(opinions)
        places = _first_place(ease)
        for depth, right in enumerate(emitted):
            if not (voices := [voice for voice in voices if len(voice.tokens) > depth]):
                break
            for token in sorted({voice.tokens[depth] for voice in voices}):
                _learn(self._features(voices, token, depth, places), token == right)
            voices = [voice for voice in voices if voice.tokens[depth] == right]

    def _voices(self, opinions: Sequence[Opinion]) -> list[Voice]:
        return [Voice(self._trust[opinion.drafter], opinion) for opinion in opinions]

    def _features(
        self, voices: Sequence[Voice], token: int, depth: int, places: int
    ) -> list[Feature]:
        features = []
        num_for = 0
        for voice in voices:
            is_for = voice.tokens[depth] == token
            num_for += is_for
            parts = voice.trust.own if is_for else voice.trust.others
            features.append((parts, voice.sureness[depth]))
        stand = (1 + _MANY) * min(num_for, _MANY) + min(len(voices) - num_for, _MANY)
        features.append((self._stands, stand))
        features.append((self._places, places + min(depth, _LATER)))
        return features


def _first_place(ease: float) -> int:
    return (1 + _LATER) * bisect(EASE_EDGES, ease)


def _chance(features: Sequence[Feature]) -> float:
    # fsum: the order in which proposals arrived must not matter.
    return 1.0 / (1.0 + exp(-fsum([parts.values[way] for parts, way in features])))


def _learn(features: Sequence[Feature], is_right: bool) -> None:
    """One step of logistic regression, shorter for what was seen often (AdaGrad)."""
    error = is_right - _chance(features)
    for parts, way in features:
        steps = parts.steps[way] = _MEMORY * parts.steps[way] + error * error
        parts.values[way] += _RATE * error / sqrt(steps)


def ease_after(ease: float, draft: Sequence[int], emitted: Sequence[int]) -> float:
    """The share of its drafts that a request had accepted lately, a round later. Tokens behind
    the first difference, or behind what was emitted, say nothing."""
    num_agreed = common_length(draft, emitted)
    num_compared = min(len(draft), len(emitted), num_agreed + 1)
    return ease + _EASE_RATE * (num_agreed / num_compared - ease) if num_compared else ease
