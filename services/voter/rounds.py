"""Open rounds: which proposals are in, when a round has all that it waits for, and what the last
round of each request proposed, to be judged by what the target made of it.

Messages may be late, early, doubled or out of order; whatever does not fit is refused here. Knows
no clock and no bus.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.messages import DraftRequest, Proposal, Release

MAX_EARLY = 1024
MAX_TOKEN = 1 << 31


@dataclass(slots=True)
class Round:
    """One round of one request, and the proposals for it by drafter."""

    request: DraftRequest
    proposals: dict[str, Proposal] = field(default_factory=dict)
    is_closed: bool = False

    @property
    def position(self) -> int:
        """Index of the first token to be drafted."""
        return self.request.start + len(self.request.tokens)

    def emitted(self, start: int, tokens: Sequence[int]) -> Sequence[int] | None:
        """The target's tokens from this round's position on, as a later message tells them."""
        return tokens[self.position - start :] if start <= self.position else None


class Rounds:
    """The newest round of each of the `max_requests` most recent requests."""

    def __init__(self, max_requests: int, quorum: int) -> None:
        self._max_requests = max_requests
        self._quorum = quorum
        self._rounds: OrderedDict[str, Round] = OrderedDict()
        self._early: OrderedDict[tuple[str, int], list[Proposal]] = OrderedDict()

    def last(self, request_id: str) -> Round | None:
        """The request's newest round."""
        return self._rounds.get(request_id)

    def open(self, request: DraftRequest) -> Round | None:
        """Begins a round, with what came early for it; None if it is over already."""
        known = self._rounds.get(request.request_id)
        if known is not None and request.round <= known.request.round:
            return None
        opened = self._rounds[request.request_id] = Round(request)
        self._rounds.move_to_end(request.request_id)
        if len(self._rounds) > self._max_requests:
            self._rounds.popitem(last=False)
        for proposal in self._early.pop((request.request_id, request.round), ()):
            self._add(opened, proposal)
        return opened

    def add(self, proposal: Proposal) -> Round | None:
        """Takes a proposal in; the open round that it belongs to, or None where it is early.
        Raises ValueError for one that is late, doubled or out of bounds."""
        known = self._rounds.get(proposal.request_id)
        if known is None or proposal.round > known.request.round:
            early = self._early.setdefault((proposal.request_id, proposal.round), [])
            early.append(proposal)
            if len(self._early) > MAX_EARLY or len(early) > MAX_EARLY:
                self._early.popitem(last=False)
            return None
        if known.is_closed or proposal.round < known.request.round:
            raise LateError(proposal.drafter)
        if not self._add(known, proposal):
            raise ValueError(f"proposal of {proposal.drafter} out of bounds")
        return known

    def is_complete(self, opened: Round) -> bool:
        """All that were asked have answered, or as many as make a quorum."""
        wanted = len(opened.request.drafters)
        return len(opened.proposals) >= (min(self._quorum, wanted) or wanted)

    def release(self, release: Release) -> Round | None:
        """Forgets a request; its last round, if it was known."""
        return self._rounds.pop(release.request_id, None)

    def _add(self, opened: Round, proposal: Proposal) -> bool:
        request = opened.request
        fits = (
            proposal.drafter in request.drafters
            and proposal.drafter not in opened.proposals
            and len(proposal.tokens) <= request.speculation_length
            and all(0 <= token < MAX_TOKEN for token in proposal.tokens)
        )
        if fits:
            opened.proposals[proposal.drafter] = proposal
        return fits


class LateError(ValueError):
    """A proposal for a round that is over; the argument is its drafter."""
