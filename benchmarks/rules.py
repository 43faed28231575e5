"""Votes and policies of lengths, as benchmarks.replay runs them: services/voter behind two protocols.

Pure. Nothing is decided here: each class does with the voter's own modules what
services/voter/service.py does with them under one setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from services.voter.config import VoterConfig
from services.voter.estimator import Estimator, Opinion
from services.voter.length_controller import LengthController, LengthRule, scaled
from services.voter.useful_length import next_length
from services.voter.vote import Ballot, Walk, merge
from services.voter.weights import WeightRule, Weights

CONFIG = VoterConfig()

Path = tuple[Sequence[int], Sequence[float]]
"""A draft, and for each of its tokens the chance that the target follows that far."""


class Rule(Protocol):
    """A vote."""

    def merge(self, opinions: Sequence[Opinion], ease: float, length: int) -> Path: ...

    def learn(self, opinions: Sequence[Opinion], emitted: Sequence[int], ease: float) -> None: ...


class Learned:
    """VOTER_WALK=learned, the default."""

    def __init__(self) -> None:
        self.estimator = Estimator()
        self.learn = self.estimator.learn

    def merge(self, opinions: Sequence[Opinion], ease: float, length: int) -> Path:
        return self.estimator.draft(opinions, ease, length)


class Weighted:
    """VOTER_WALK=greedy or heaviest-path: the paper's vote."""

    def __init__(self, walk: Walk) -> None:
        self._walk: Walk = walk
        self._weights = Weights(WeightRule(CONFIG.weight_rate, CONFIG.weight_threshold))
        self._estimator = Estimator()

    def merge(self, opinions: Sequence[Opinion], ease: float, length: int) -> Path:
        ballots = [Ballot(o.tokens, self._weights.of(o.drafter)) for o in opinions]
        tokens = merge(ballots, self._walk, length)
        return tokens, self._estimator.follow(tokens, opinions, ease)

    def learn(self, opinions: Sequence[Opinion], emitted: Sequence[int], ease: float) -> None:
        for opinion in opinions:
            self._weights.observe(opinion.drafter, opinion.tokens, emitted)
        self._estimator.learn(opinions, emitted, ease)


class Single:
    """No vote: one drafter's proposals."""

    def __init__(self, drafter: str) -> None:
        self._drafter = drafter

    def merge(self, opinions: Sequence[Opinion], ease: float, length: int) -> Path:
        tokens = [t for o in opinions if o.drafter == self._drafter for t in o.tokens[:length]]
        return tokens, [1.0] * len(tokens)

    def learn(self, opinions: Sequence[Opinion], emitted: Sequence[int], ease: float) -> None:
        """There is nothing to learn."""


class Lengths(Protocol):
    """A policy of lengths. `num_running` are the requests in work."""

    is_whole: bool
    """Drafts are verified as they are; otherwise as far as pays."""

    def first(self) -> int:
        """Tokens that a request's first round asks for."""

    def next(self, asked: int, survival: Sequence[float], price: float, num_running: int) -> int:
        """What the round after this one asks for."""

    def observe(
        self, asked: int, num_tokens: int, seconds: float, num_rounds: int, num_running: int
    ) -> None:
        """Rounds of one request that are over."""


class Fixed:
    """VOTER_FIXED_LENGTH."""

    is_whole = True

    def __init__(self, length: int) -> None:
        self._length = length

    def first(self) -> int:
        return self._length

    def next(self, asked: int, survival: Sequence[float], price: float, num_running: int) -> int:
        return self._length

    def observe(
        self, asked: int, num_tokens: int, seconds: float, num_rounds: int, num_running: int
    ) -> None:
        """Nothing is made of it."""


class Climbing(Fixed):
    """VOTER_LENGTH=climb: the paper's rule."""

    def __init__(self) -> None:
        super().__init__(CONFIG.initial_length)
        self._rule = LengthRule(
            initial=CONFIG.initial_length,
            max_length=CONFIG.max_length,
            decision_threshold=CONFIG.decision_threshold,
            window=CONFIG.window,
        )
        self._controllers: dict[int, LengthController] = {}

    def next(self, asked: int, survival: Sequence[float], price: float, num_running: int) -> int:
        return self._controller(num_running).length

    def observe(
        self, asked: int, num_tokens: int, seconds: float, num_rounds: int, num_running: int
    ) -> None:
        self._controller(num_running).observe(asked, num_tokens, seconds, num_rounds)

    def _controller(self, num_running: int) -> LengthController:
        size = num_running.bit_length()
        if size not in self._controllers:
            self._controllers[size] = LengthController(scaled(self._rule, size))
        return self._controllers[size]


class Useful(Fixed):
    """VOTER_LENGTH=useful, the default: each token by its chance and its price."""

    is_whole = False

    def __init__(self) -> None:
        super().__init__(CONFIG.initial_length)

    def next(self, asked: int, survival: Sequence[float], price: float, num_running: int) -> int:
        return next_length(asked, survival, price, CONFIG.max_length)
