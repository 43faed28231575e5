"""Replays a record of proposals: any vote, any policy of lengths, at a given cost of passes.

Pure: a record, rules and costs in, tokens and seconds out; no clock, no files. Rounds are those of
services/voter/service.py and services/verifier/engine.py with all requests in step, in one lane:
opinions are merged, lengths chosen, one pass verifies all drafts, and each learns from the outcome.
What is left out is chance: a pass costs what the curve says, and the policies know the curve.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.recorded import Track
from benchmarks.rules import Lengths, Rule
from services.verifier.draft_lengths import choose_lengths, token_price
from services.verifier.pace import Usual
from services.verifier.pass_cost import PassCost
from services.voter.estimator import Opinion
from services.voter.rounds import Round
from shared.messages import DraftRequest, Sampling
from shared.tokens import common_length

PLAIN_ROUNDS = 8
"""Of plain decoding between two messages to the voter (services/verifier/speculation.py)."""
_UNUSED = DraftRequest("", 0, "", 0, [], 0, 0, 0.0, Sampling(), 0.0, [], "", "", None)


@dataclass(frozen=True, slots=True)
class Costs:
    """What a round takes. `pass_s` are seconds by the number of tokens in a pass; drafting takes
    `step_s` for each token of the longest proposal, and `round_s` for messages and votes."""

    pass_s: Mapping[int, float]
    step_s: float
    round_s: float


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
    round: Round = field(default_factory=lambda: Round(_UNUSED))
    """Only for what the voter knows of how easy the request is."""
    asked: int = 0
    opinions: Sequence[Opinion] = ()
    draft: Sequence[int] = ()
    survival: Sequence[float] = ()
    emitted: Sequence[int] = ()
    told: int = 0
    """Tokens asked for when the voter was told last; since then, rounds, tokens and seconds."""
    num_rounds: int = 0
    num_tokens: int = 0
    seconds: float = 0.0

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
    """One verifier and one voter at work. `knows_rounds`: what passes between two passes is known
    to those who choose lengths."""

    def __init__(
        self, rule: Rule, lengths: Lengths, costs: Costs, knows_rounds: bool = False
    ) -> None:
        self.result = Result()
        self._rule = rule
        self._lengths = lengths
        self._costs = costs
        self._cost = PassCost(costs.pass_s)
        self._usual = Usual()
        self._knows_rounds = knows_rounds
        self._outside_s = 0.0

    @property
    def price(self) -> float:
        """As services/verifier/engine.py has it."""
        usual = self._usual
        tokens = round(usual.num_tokens)
        price = token_price(usual.num_emitted, tokens, self._cost.seconds, self._outside_s)
        return min(1.0, price)

    def run(self, requests: Sequence[Request], at_a_time: int) -> Result:
        """Requests in turn, so many at a time. What was learned stays for the next call."""
        waiting = deque(requests)
        seats: list[Seat] = []
        while waiting or seats:
            while waiting and len(seats) < at_a_time:
                seats.append(Seat(waiting.popleft(), self._lengths.first()))
            self._round(seats)
            seats = [seat for seat in seats if seat.num_remaining]
        return self.result

    def _round(self, seats: Sequence[Seat]) -> None:
        price = self.price
        for seat in seats:
            self._draft(seat, price, len(seats))
        longest = max(seat.asked for seat in seats)
        outside_s = self._costs.round_s + longest * self._costs.step_s if longest else 0.0
        if self._knows_rounds:
            self._outside_s = outside_s
        lengths = self._cut(seats)
        seconds = outside_s + self._verify(seats, lengths)
        self.result.seconds += seconds
        self.result.num_passes += 1
        for seat in seats:
            self._settle(seat, seconds, len(seats))

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
        seat.length = self._lengths.next(length, seat.survival, price, num_running)

    def _vote(self, seat: Seat, length: int) -> None:
        seat.opinions = seat.here.track.asked(seat.position, length)
        seat.draft, seat.survival = self._rule.merge(seat.opinions, seat.round.ease, length)

    def _cut(self, seats: Sequence[Seat]) -> list[int]:
        """How much of each draft is verified."""
        if self._lengths.is_whole:
            return [len(seat.draft) for seat in seats]
        survivals = [seat.survival for seat in seats]
        return choose_lengths(survivals, len(seats), self._cost.seconds, self._outside_s)

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

    def _settle(self, seat: Seat, seconds: float, num_running: int) -> None:
        """What the voter learns from the outcome; in step, so not later than with real messages."""
        if seat.opinions:
            self._rule.learn(seat.opinions, seat.emitted, seat.round.ease)
        seat.round.draft = list(seat.draft)
        seat.round.learn_ease(seat.emitted)
        seat.num_rounds += 1
        seat.num_tokens += len(seat.emitted)
        seat.seconds += seconds
        if not seat.num_remaining:
            self._tell(seat, num_running)

    def _tell(self, seat: Seat, num_running: int) -> None:
        if seat.num_rounds:
            self._lengths.observe(
                seat.told, seat.num_tokens, seat.seconds, seat.num_rounds, num_running
            )
        seat.num_rounds, seat.num_tokens, seat.seconds = 0, 0, 0.0
