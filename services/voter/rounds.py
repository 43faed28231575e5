"""Open rounds: which proposals are in, when a round has all that it waits for, and what the last
round of each request proposed, to be judged by what the target made of it.

Messages may be late, early, doubled or out of order; whatever does not fit is refused here. Knows
no clock and no bus.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.voter import metrics
from services.voter.estimator import FIRST_EASE, Opinion, ease_after
from shared.messages import DraftRequest, Proposal, Release
from shared.tracing import UNTRACED, Span
from shared.wire import replace

MAX_EARLY = 1024
MAX_TOKEN = 1 << 31


@dataclass(slots=True)
class Round:
    """One round of one request, and the proposals for it by drafter."""

    request: DraftRequest
    proposals: dict[str, Proposal] = field(default_factory=dict)
    draft: list[int] | None = None
    """Set when the round is closed."""
    ease: float = FIRST_EASE
    """Share of its drafts that the request had accepted lately."""
    silent: set[str] = field(default_factory=set)
    """Drafters that were waited for in vain, and have said nothing about the request since."""
    span: Span = UNTRACED
    """The verifier's round, where it is traced."""
    opened_at: float = 0.0
    """By `time.perf_counter`."""

    @property
    def is_closed(self) -> bool:
        return self.draft is not None

    @property
    def position(self) -> int:
        """Index of the first token to be drafted."""
        return self.request.start + len(self.request.tokens)

    @property
    def draft_s(self) -> float:
        """Of the slowest drafter, in seconds."""
        return max((p.draft_s for p in self.proposals.values()), default=0.0)

    def give_up(self) -> None:
        """The deadline has passed: whoever is missing is not waited for again until heard."""
        self.silent |= set(self.request.drafters) - set(self.proposals)

    @property
    def opinions(self) -> list[Opinion]:
        """What was proposed, in an order that does not depend on who was first."""
        return [Opinion(name, p.tokens, p.margins) for name, p in sorted(self.proposals.items())]

    def learn_ease(self, emitted: Sequence[int]) -> None:
        """Takes in how far the target followed the draft."""
        self.ease = ease_after(self.ease, self.draft or [], emitted)

    def emitted(self, start: int, tokens: Sequence[int]) -> Sequence[int] | None:
        """The target's tokens from this round's position on, as a later message tells them."""
        return tokens[self.position - start :] if start <= self.position else None


class Rounds:
    """The newest round of each of the `max_requests` most recent requests."""

    def __init__(self, max_requests: int, quorum: int) -> None:
        self._max_requests = max_requests
        self._quorum = quorum
        self._rounds: OrderedDict[str, Round] = OrderedDict()
        self._early: OrderedDict[tuple[str, int, str], Proposal] = OrderedDict()

    def last(self, request_id: str) -> Round | None:
        """The request's newest round."""
        return self._rounds.get(request_id)

    def open(self, request: DraftRequest) -> Round | None:
        """Begins a round, with what came early for it; None if it is over already."""
        known = self._rounds.get(request.request_id)
        if known is not None and request.round <= known.request.round:
            return None
        silent = known.silent & set(request.drafters) if known is not None else set()
        opened = self._rounds[request.request_id] = Round(request, silent=silent)
        self._rounds.move_to_end(request.request_id)
        if len(self._rounds) > self._max_requests:
            self._rounds.popitem(last=False)
        for drafter in request.drafters:
            early = self._early.pop((request.request_id, request.round, drafter), None)
            if early is not None:
                opened.silent.discard(drafter)
                opened.proposals[drafter] = _checked(early, request)
        return opened

    def add(self, proposal: Proposal) -> Round:
        """Takes a proposal in; the open round that it belongs to. Raises RefusedError, with the
        reason, for one that is early (it is kept), late, repeated or not asked for."""
        known = self._rounds.get(proposal.request_id)
        if known is None or proposal.round > known.request.round:
            self._early[proposal.request_id, proposal.round, proposal.drafter] = proposal
            if len(self._early) > MAX_EARLY:
                self._early.popitem(last=False)
            raise RefusedError("early")
        if proposal.drafter not in known.request.drafters:
            raise RefusedError("unknown drafter")
        known.silent.discard(proposal.drafter)
        if proposal.round < known.request.round:
            raise RefusedError("late")
        if proposal.drafter in known.proposals:
            raise RefusedError("repeated")
        if known.is_closed:
            raise RefusedError("late")
        known.proposals[proposal.drafter] = _checked(proposal, known.request)
        return known

    def is_complete(self, opened: Round) -> bool:
        """All that were asked and can be expected to answer have done so, or as many as make a
        quorum."""
        wanted = len(set(opened.request.drafters) - opened.silent)
        return len(opened.proposals) >= (min(self._quorum, wanted) or wanted)

    def release(self, release: Release) -> Round | None:
        """Forgets a request; its last round, if it was known."""
        return self._rounds.pop(release.request_id, None)


class RefusedError(ValueError):
    """A proposal that takes no part in an open round; the argument says why."""


def _checked(proposal: Proposal, request: DraftRequest) -> Proposal:
    """The proposal; without its tokens where they cannot be what was asked for. It still counts
    as an answer: nobody is to wait for a drafter that is broken."""
    is_sound = (
        len(proposal.margins) == len(proposal.tokens) <= request.speculation_length
        and all(0 <= token < MAX_TOKEN for token in proposal.tokens)
        and (proposal.is_synced or not proposal.tokens)
    )
    if is_sound:
        return proposal
    metrics.BAD_PROPOSALS.labels(proposal.drafter).inc()
    return replace(proposal, tokens=[], margins=[])
