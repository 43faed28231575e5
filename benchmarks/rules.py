"""Votes and policies of lengths, as benchmarks.replay runs them: services/voter in two protocols.

Pure. Nothing is decided here: each class does with the voter's own modules what
services/voter/service.py does with them under one setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.recorded import REACH
from services.voter.config import VoterConfig
from services.voter.estimator import Estimator, Opinion
from services.voter.length_controller import LengthController, LengthRule, scaled
from services.voter.useful_length import UsefulLength
from services.voter.vote import Ballot, Walk, merge
from services.voter.weights import WeightRule, Weights

CONFIG = VoterConfig.model_validate({"max_length": REACH})
"""The defaults, whatever the environment says, for drafts as long as a record has them."""

Merged = tuple[Sequence[int], Sequence[float]]
"""A draft, and for each of its tokens the chance that the target follows that far."""


class Rule(Protocol):
    """A vote."""

    def merge(self, opinions: Sequence[Opinion], ease: float, length: int) -> Merged: ...

    def learn(self, opinions: Sequence[Opinion], emitted: Sequence[int], ease: float) -> None: ...


class Learned:
    """VOTER_WALK=learned, the default."""

    def __init__(self) -> None:
        self.estimator = Estimator()
        self.learn = self.estimator.learn

    def merge(self, opinions: Sequence[Opinion], ease: float, length: int) -> Merged:
        return self.estimator.draft(opinions, ease, length)


class Weighted:
    """VOTER_WALK=greedy or heaviest-path: the paper's vote."""

    def __init__(self, walk: Walk) -> None:
        self._walk: Walk = walk
        self._weights = Weights(WeightRule(CONFIG.weight_rate, CONFIG.weight_threshold))
        self._estimator = Estimator()

    def merge(self, opinions: Sequence[Opinion], ease: float, length: int) -> Merged:
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

    def merge(self, opinions: Sequence[Opinion], ease: float, length: int) -> Merged:
        tokens = [t for o in opinions if o.drafter == self._drafter for t in o.tokens[:length]]
        return tokens, [1.0] * len(tokens)

    def learn(self, opinions: Sequence[Opinion], emitted: Sequence[int], ease: float) -> None:
        """There is nothing to learn."""


@dataclass(frozen=True, slots=True)
class Now:
    """A round whose pass is still to come: tokens asked for, the chance of each that was drafted,
    the chance from which on one pays, how easy the request is, and the requests in work."""

    asked: int
    survival: Sequence[float]
    price: float
    ease: float
    num_running: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """Rounds of one request, of which the first asked for `asked` tokens, which took `draft_s`."""

    asked: int
    num_tokens: int
    num_rounds: int
    seconds: float
    draft_s: float
    num_running: int


class Lengths(Protocol):
    """A policy of lengths."""

    is_whole: bool
    """Drafts are verified as they are; otherwise as far as pays."""

    def first(self) -> int:
        """Tokens that a request's first round asks for: what another was told last."""

    def next(self, now: Now) -> int:
        """What the round after this one asks for."""

    def observe(self, outcome: Outcome) -> None:
        """Learns from rounds of one request that are over."""


class Fixed:
    """VOTER_FIXED_LENGTH."""

    is_whole = True

    def __init__(self, length: int) -> None:
        self._length = length

    def first(self) -> int:
        return self._length

    def next(self, now: Now) -> int:
        return self._length

    def observe(self, outcome: Outcome) -> None:
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

    def next(self, now: Now) -> int:
        self._length = self._controller(now.num_running).length
        return self._length

    def observe(self, outcome: Outcome) -> None:
        self._controller(outcome.num_running).observe(
            outcome.asked, outcome.num_tokens, outcome.seconds, outcome.num_rounds
        )

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
        self._useful: dict[int, UsefulLength] = {}

    def next(self, now: Now) -> int:
        useful = self._useful_length(now.num_running)
        self._length = useful.next(now.asked, now.survival, now.price, now.ease)
        return self._length

    def observe(self, outcome: Outcome) -> None:
        self._useful_length(outcome.num_running).draft_price.observe(
            outcome.asked, outcome.draft_s, outcome.num_tokens, outcome.seconds
        )

    def _useful_length(self, num_running: int) -> UsefulLength:
        size = num_running.bit_length()
        if size not in self._useful:
            self._useful[size] = UsefulLength(CONFIG.max_length, is_alone=size < 2)
        return self._useful[size]
