"""What a small tree would add: beside the draft, a second continuation from where votes split.

Pure. The main chain is verified as ever. Tokens of a side branch are computed at other places of
the cache and in other company, so by the rule of exactness none of them is emitted. Where the
target turns off into the side branch, they tell what it will write next: the next round's draft
begins with tokens that are surely right. `emits` shows what would be gained without that rule.

It is taken to be known at once what followed a side branch, and drafters are taken to draft on
behind it at no cost: both flatter trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.replay import Costs, Replay, Request, Seat
from benchmarks.rules import Learned, Lengths
from services.verifier.draft_lengths import choose_lengths
from shared.tokens import common_length


@dataclass(slots=True)
class TreeSeat(Seat):
    """A request whose draft may have a side branch."""

    known: Sequence[int] = ()
    """What the target is known to write next. The voter's draft goes on behind it."""
    depth: int = 0
    """Tokens of the draft that the side branch shares."""
    side: Sequence[int] = ()
    chances: Sequence[float] = ()
    """That the target turns off into the side branch and follows it so far."""


@dataclass(slots=True)
class Branches:
    """Counts over rounds: those in which proposals split within the verified draft, those in which
    a branch was tried, its tokens, those into which the target turned off, and the tokens that were
    then known."""

    num_rounds: int = 0
    num_split: int = 0
    num_tried: int = 0
    num_tokens: int = 0
    num_right: int = 0
    num_known: int = 0


class TreeReplay(Replay):
    """A replay with at most one side branch for each request, of up to `width` tokens, each of
    which is tried if its chance is at least `worth` times the price of a token."""

    def __init__(
        self, lengths: Lengths, costs: Costs, width: int, worth: float, emits: bool = False
    ) -> None:
        self._learned = Learned()
        super().__init__(self._learned, lengths, costs)
        self._width, self._worth, self._emits = width, worth, emits
        self.branches = Branches()

    def _seat(self, request: Request) -> TreeSeat:
        return TreeSeat(request, self._lengths.first())

    def _vote(self, seat: Seat, length: int) -> None:
        assert isinstance(seat, TreeSeat)
        behind = seat.position + len(seat.known)
        if behind >= seat.here.end - 1:
            return
        seat.opinions = seat.here.track.asked(behind, min(length, seat.here.end - 1 - behind))
        seat.draft, seat.survival = self._rule.merge(seat.opinions, seat.ease, length)

    def _cut(self, seats: Sequence[Seat]) -> list[int]:
        """Tokens of each main chain, of which the known come first; chooses the branches."""
        own = [seat for seat in seats if isinstance(seat, TreeSeat)]
        if self._lengths.is_whole:
            lengths = [len(seat.known) + len(seat.draft) for seat in own]
        else:
            survivals = [[1.0] * len(seat.known) + list(seat.survival) for seat in own]
            between_s = self._usual.between_s
            lengths = choose_lengths(survivals, [1] * len(own), self._cost.seconds, between_s)
        least = self._worth * self.price
        for seat, length in zip(own, lengths, strict=True):
            self._branch(seat, length - len(seat.known), least)
        return lengths

    def _branch(self, seat: TreeSeat, length: int, least: float) -> None:
        """The likeliest of the proposals that leave the first `length` tokens of the draft."""
        seat.depth, seat.side, seat.chances = 0, (), ()
        for opinion in seat.opinions:
            depth = common_length(opinion.tokens, seat.draft)
            side = opinion.tokens[depth : depth + self._width]
            if depth < length and side:
                path = [*seat.draft[:depth], *side]
                chances = self._learned.estimator.follow(path, seat.opinions, seat.ease)[depth:]
                if not seat.chances or chances[0] > seat.chances[0]:
                    seat.depth, seat.side, seat.chances = depth, side, chances
        num_worth = sum(chance >= least for chance in seat.chances)
        seat.side = seat.side[:num_worth]

    def _verify(self, seats: Sequence[Seat], lengths: Sequence[int]) -> float:
        num_tokens = len(seats) + sum(lengths)
        for seat, length in zip(seats, lengths, strict=True):
            assert isinstance(seat, TreeSeat)
            num_tokens += len(seat.side)
            coming = seat.coming
            chain = [*seat.known, *seat.draft][:length]
            num_accepted = common_length(chain, coming)
            num_right = 0
            if num_accepted == len(seat.known) + seat.depth:
                num_right = common_length(seat.side, coming[num_accepted:])
            emitted = coming[: num_accepted + 1 + (num_right if self._emits else 0)]
            voted = emitted[len(seat.known) :]
            seat.emit(emitted)
            self._count(seat, num_right)
            self._teach(seat, voted)
            seat.known = () if self._emits else seat.coming[: min(num_right, seat.num_remaining)]
        return self._account(seats, num_tokens)

    def _count(self, seat: TreeSeat, num_right: int) -> None:
        self.branches.num_rounds += 1
        self.branches.num_split += bool(seat.chances)
        self.branches.num_tried += bool(seat.side)
        self.branches.num_tokens += len(seat.side)
        self.branches.num_right += bool(num_right)
        self.branches.num_known += num_right

    def _teach(self, seat: TreeSeat, voted: Sequence[int]) -> None:
        """From the tokens behind those that were known: only these were voted on."""
        emitted, seat.emitted = seat.emitted, voted
        super()._learn(seat)
        seat.emitted = emitted

    def _learn(self, seat: Seat) -> None:
        """Has been done, while the side branch was at hand."""
