"""Replays a record of proposals: any vote, any policy of lengths, at a given cost of passes.

Pure: a record, rules and costs in, tokens and seconds out; no clock, no files. Rounds are those of
services/voter/service.py and services/verifier/engine.py with all requests in step, in one lane:
opinions are merged, lengths chosen, one pass verifies all drafts, and each learns from the outcome.
What is left out is chance: a pass costs what the curve says, and the policies know the curve.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.recorded import Track
from benchmarks.rules import Lengths, Now, Outcome, Rule
from services.verifier.draft_lengths import choose_lengths, token_price
from services.verifier.pace import Usual
from services.verifier.pass_cost import PassCost
from services.voter.estimator import FIRST_EASE, Opinion, ease_after
from shared.tokens import common_length

PLAIN_ROUNDS = 8
"""Of plain decoding between two messages to the voter (services/verifier/speculation.py)."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What a round takes. `pass_s` are seconds by the number of tokens in a pass. Where there is
    drafting, it takes `step_s` for each token of the longest proposal and `row_s` more for each
    token of each request, and messages and votes take `round_s`."""

    pass_s: Mapping[int, float]
    step_s: float
    row_s: float
    round_s: float

    def draft_s(self, asked: Sequence[int]) -> float:
        """Of drafting so many tokens for each request."""
        return self.step_s * max(asked, default=0) + self.row_s * sum(asked)


_DRAFTING = (0.0003, 0.0001, 0.0015)
LARGE = Costs(
    {2: 0.020, 6: 0.022, 7: 0.028, 12: 0.031, 13: 0.037, 24: 0.046, 64: 0.100, 128: 0.190},
    *_DRAFTING,
)
"""A target of 110 M parameters in fp32 on two AVX2 cores, and the shipped draft models: the slower
takes 0.34 to 0.48 ms for a token of one request, 1.0 to 1.8 ms for one of each of eight."""
SMALL = Costs({2: 0.0012, 12: 0.0024, 24: 0.004, 64: 0.010}, *_DRAFTING)
"""The shipped target of 6 M parameters with the same. A pass costs it no more than drafting."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a track: tokens from `start` to before `end`."""

    track: Track
    start: int
    end: int


Request = Sequence[Segment]
"""What one request writes: parts of tracks, one behind the other."""


def whole(track: Track) -> Request:
    """A request that writes all of a track."""
    return [Segment(track, 0, len(track.tokens))]


@dataclass(slots=True)
class Seat:
    """A request in work: where it is, its round, and what the voter is still to be told."""

    request: Request
    length: int
    """Tokens to be asked for next."""
    part: int = 0
    position: int = 0
    ease: float = FIRST_EASE
    asked: int = 0
    computes: bool = True
    """Whether models draft for it, not only those that look up, which costs nothing."""
    opinions: Sequence[Opinion] = ()
    draft: Sequence[int] = ()
    survival: Sequence[float] = ()
    emitted: Sequence[int] = ()
    told: int = 0
    """Tokens asked for when the voter was told last; since then, rounds, tokens and seconds."""
    num_rounds: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    draft_s: float = 0.0

    def __post_init__(self) -> None:
        self.position = self.request[0].start

    @property
    def here(self) -> Segment:
        return self.request[self.part]

    @property
    def num_remaining(self) -> int:
        later = sum(part.end - part.start for part in self.request[self.part + 1 :])
        return self.here.end - self.position + later

    @property
    def coming(self) -> list[int]:
        """What the target goes on to write."""
        return self.here.track.tokens[self.position : self.here.end]

    def emit(self, tokens: Sequence[int]) -> None:
        self.emitted = tokens
        self.position += len(tokens)
        if self.position == self.here.end and self.part + 1 < len(self.request):
            self.part += 1
            self.position = self.here.start


@dataclass(slots=True)
class Result:
    """What a replay came to. `num_rounds` counts the rounds of each request, `num_verified` the
    draft tokens in passes, `num_asked` those that were asked for."""

    num_tokens: int = 0
    num_rounds: int = 0
    num_passes: int = 0
    num_asked: int = 0
    num_verified: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_round(self) -> float:
        return self.num_tokens / self.num_rounds

    @property
    def seconds_per_token(self) -> float:
        return self.seconds / self.num_tokens


class Replay:
    """One verifier and one voter at work."""

    def __init__(self, rule: Rule, lengths: Lengths, costs: Costs) -> None:
        self.result = Result()
        self._rule = rule
        self._lengths = lengths
        self._costs = costs
        self._cost = PassCost(costs.pass_s)
        self._usual = Usual()

    @property
    def price(self) -> float:
        """As services/verifier/engine.py has it."""
        usual = self._usual
        num_tokens, seconds = round(usual.num_tokens), self._cost.seconds
        return min(1.0, token_price(usual.num_emitted, num_tokens, seconds, usual.between_s))

    def run(self, requests: Sequence[Request], at_a_time: int) -> Result:
        """Requests in turn, so many at a time. What was learned stays for the next call."""
        waiting = deque(requests)
        seats: list[Seat] = []
        while waiting or seats:
            while waiting and len(seats) < at_a_time:
                seats.append(self._seat(waiting.popleft()))
            self._round(seats)
            seats = [seat for seat in seats if seat.num_remaining]
        return self.result

    def _seat(self, request: Request) -> Seat:
        return Seat(request, self._lengths.first())

    def _round(self, seats: Sequence[Seat]) -> None:
        price = self.price
        for seat in seats:
            self._draft(seat, price, len(seats))
        draft_s = self._costs.draft_s([seat.asked for seat in seats if seat.computes])
        between_s = draft_s + self._costs.round_s if any(seat.asked for seat in seats) else 0.0
        lengths = self._cut(seats)
        seconds = between_s + self._verify(seats, lengths)
        self._usual.observe_between(between_s)
        self.result.seconds += seconds
        self.result.num_passes += 1
        for seat in seats:
            self._learn(seat)
            self._settle(seat, seconds, draft_s, len(seats))

    def _draft(self, seat: Seat, price: float, num_running: int) -> None:
        """A request's draft, and the length of its next round. Where a single token is to come,
        nothing is asked; in plain decoding the voter hears of every eighth round."""
        length = min(seat.length, seat.num_remaining - 1)
        seat.asked, seat.opinions, seat.draft, seat.survival = 0, (), (), ()
        is_plain = length == seat.told == 0 < seat.num_rounds < PLAIN_ROUNDS
        if seat.num_remaining == 1 or is_plain:
            return
        self._tell(seat, num_running)
        seat.asked = seat.told = length
        self.result.num_asked += length
        if length:
            self._vote(seat, length)
        seat.length = self._lengths.next(Now(length, seat.survival, price, seat.ease, num_running))

    def _vote(self, seat: Seat, length: int) -> None:
        seat.opinions = self._opinions(seat, length)
        seat.draft, seat.survival = self._rule.merge(seat.opinions, seat.ease, length)

    def _opinions(self, seat: Seat, length: int) -> Sequence[Opinion]:
        return seat.here.track.asked(seat.position, length)

    def _cut(self, seats: Sequence[Seat]) -> list[int]:
        """How much of each draft is verified."""
        if self._lengths.is_whole:
            return [len(seat.draft) for seat in seats]
        survivals = [seat.survival for seat in seats]
        between_s = self._usual.between_s
        return choose_lengths(survivals, [1] * len(seats), self._cost.seconds, between_s)

    def _verify(self, seats: Sequence[Seat], lengths: Sequence[int]) -> float:
        """The pass; its seconds."""
        for seat, length in zip(seats, lengths, strict=True):
            coming = seat.coming
            seat.emit(coming[: common_length(seat.draft[:length], coming) + 1])
        return self._account(seats, len(seats) + sum(lengths))

    def _account(self, seats: Sequence[Seat], num_tokens: int) -> float:
        num_emitted = sum(len(seat.emitted) for seat in seats)
        self._usual.observe(num_emitted, num_tokens)
        self.result.num_tokens += num_emitted
        self.result.num_rounds += len(seats)
        self.result.num_verified += num_tokens - len(seats)
        return self._cost.seconds(num_tokens)

    def _learn(self, seat: Seat) -> None:
        """In step with the round; real messages bring the outcome with the next one."""
        if seat.opinions:
            self._rule.learn(seat.opinions, seat.emitted, seat.ease)
        seat.ease = ease_after(seat.ease, seat.draft, seat.emitted)

    def _settle(self, seat: Seat, seconds: float, draft_s: float, num_running: int) -> None:
        seat.num_rounds += 1
        seat.num_tokens += len(seat.emitted)
        seat.seconds += seconds
        seat.draft_s += draft_s if seat.asked else 0.0
        if not seat.num_remaining:
            self._tell(seat, num_running)

    def _tell(self, seat: Seat, num_running: int) -> None:
        if seat.num_rounds:
            self._lengths.observe(
                Outcome(seat.told, seat.num_tokens, seat.num_rounds, seat.seconds, seat.draft_s,
                        num_running)
            )  # fmt: skip
        seat.num_rounds, seat.num_tokens, seat.seconds, seat.draft_s = 0, 0, 0.0, 0.0
