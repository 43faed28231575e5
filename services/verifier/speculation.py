"""The verifier's side of speculation: asks drafters and a voter, awaits the draft of the round.

Everything here is soft. A lost message, a dead instance or a late draft costs speed, never a
token: the round then goes on without a draft.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from services.verifier import metrics
from services.verifier.drafting import Drafters, Way, lookup_suffices
from services.verifier.session import Session
from shared.bus.base import Bus, Instance
from shared.machine import machine_id
from shared.messages import Draft, DraftRequest, Release
from shared.registry import Registry, rendezvous
from shared.wire import replace

_PLAIN_ROUNDS = 8
"""Of plain decoding, between two messages to the voter: not one a token."""
_VOTER_SHARE = 0.5
"""Of the draft timeout, the part that the voter may wait for proposals."""


@dataclass(frozen=True, slots=True)
class Crew:
    """The live drafters by name: all, and those that look up."""

    num_changes: int
    """Of the registry, when these were found."""
    all: dict[str, list[Instance]]
    looking_up: dict[str, list[Instance]]


class Speculation:
    """Finds each round's draft. One object serves all requests of a verifier."""

    def __init__(
        self,
        bus: Bus,
        registry: Registry,
        inbox: str,
        target: str,
        vocabulary: str,
        vocab_size: int,
        first_length: int,
        max_speculation_length: int,
        timeout_s: float,
    ) -> None:
        self._bus = bus
        self._registry = registry
        self._inbox = inbox
        self._target = target
        self._vocabulary = vocabulary
        self._vocab_size = vocab_size
        self.first_length = first_length
        """What a request asks for in its first round: what the last one to be told was told."""
        self._max_length = max_speculation_length
        self._timeout_s = timeout_s
        self._machine = machine_id()
        self._known_crew: Crew | None = None
        self._rounds: dict[str, tuple[Session, Instance, asyncio.Future[Draft | None]]] = {}
        self._silent: set[str] = set()
        """Inboxes of voters that were waited for in vain and have said nothing since."""

    async def draft(self, session: Session, way: Way, price: float) -> Draft:
        """The draft of the session's round; an empty one if there is none to be had in time.
        `price` is the probability of acceptance from which on a token pays."""
        nothing = self.no_draft(session)
        steering = session.request.steering
        wanted = way.drafters if steering.length is None else "all"
        if wanted == "none" or steering.length == 0:
            return nothing
        length = self.length(session)
        voters = self._registry.live("voter")
        drafters = self._choose_drafters(session, wanted)
        # Without drafters or a voter there is none to be had.
        if not (voters and drafters and self._max_length and session.num_remaining_tokens > 1):
            return nothing
        if length == 0 and session.round < session.next_plain_report:
            return nothing
        voter = rendezvous(session.id, self._heard(voters) or voters)
        arrival: asyncio.Future[Draft | None] = asyncio.get_running_loop().create_future()
        self._rounds[session.id] = (session, voter, arrival)
        await self._ask(session, voter, drafters if length else [], length, price, way.ahead)
        if length == 0:
            # Plain decoding: the voter's answer may raise the length later; nobody waits for it.
            session.next_plain_report = session.round + _PLAIN_ROUNDS
            return nothing
        if voter.inbox in self._silent:
            # It was asked, so that it can show that it is back; until then nobody waits for it.
            return nothing
        asked = time.perf_counter()
        # Of thousands a second nearly none comes too late: a timer, not a scope of its own.
        patience = asyncio.get_running_loop().call_later(self._timeout_s, _give_up, arrival)
        try:
            draft = await arrival
        finally:
            patience.cancel()
        if draft is None:
            metrics.DRAFT_TIMEOUTS.inc()
            session.num_timeouts += 1
            self._silent.add(voter.inbox)
            return nothing
        metrics.DRAFT_WAIT_SECONDS.observe(time.perf_counter() - asked)
        unsynced = {vote.drafter for vote in draft.votes if not vote.is_synced}
        for drafter in drafters:
            if drafter.name in unsynced:
                session.num_sent.pop(drafter.inbox, None)
        bounded = self._bounded(draft, length)
        # A length that the request fixed is verified whole, whatever it costs.
        return bounded if steering.length is None else replace(bounded, survival=[])

    def no_draft(self, session: Session) -> Draft:
        """Of the session's round."""
        return Draft(session.id, session.round, [], [], session.speculation_length, 0.0, 0.0, [])

    def length(self, session: Session) -> int:
        """How many tokens the session's round asks for: what the voter last said, or the request
        itself says. A last token needs no draft."""
        steering = session.request.steering
        wanted = session.speculation_length if steering.length is None else steering.length
        most = self._max_length if steering.max_length is None else steering.max_length
        return max(0, min(wanted, most, self._max_length, session.num_remaining_tokens - 1))

    def deliver(self, draft: Draft) -> None:
        """Takes a draft from the inbox; a late one still carries the next length."""
        if draft.request_id not in self._rounds:
            metrics.LATE_DRAFTS.inc()
            return
        session, voter, arrival = self._rounds[draft.request_id]
        self._silent.discard(voter.inbox)
        self.first_length = max(0, min(draft.speculation_length, self._max_length))
        session.speculation_length = self.first_length
        if draft.round != session.round or arrival.done():
            metrics.LATE_DRAFTS.inc()
            return
        arrival.set_result(draft)

    async def release(self, session: Session) -> None:
        """Tells all who know the request that it is over, with its last tokens and outcome."""
        self._rounds.pop(session.id, None)
        for start, inboxes in _by_start(session, session.num_sent).items():
            await self._bus.send(
                inboxes, Release(session.id, start, session.tokens[start:], session.outcome)
            )

    def num_looked_up(self, session: Session) -> int | None:
        """With how many tokens of the last round the best of those that look up agreed; None if
        none of them was heard."""
        agreed = session.num_agreed
        return max(
            (agreed[name] for name in self._crew().looking_up if name in agreed), default=None
        )

    def has_distant_drafters(self) -> bool:
        """Whether some draft model computes on another machine."""
        return any(
            drafter.attributes.get("machine", self._machine) != self._machine
            for name, drafters in self._crew().all.items()
            if name not in self._crew().looking_up
            for drafter in drafters
        )

    def _bounded(self, draft: Draft, length: int) -> Draft:
        """The draft up to what was asked for and what is a token: others' faults end here."""
        tokens = list(takewhile(lambda t: 0 <= t < self._vocab_size, draft.tokens[:length]))
        return replace(draft, tokens=tokens, survival=draft.survival[: len(tokens)])

    def _heard(self, voters: list[Instance]) -> list[Instance]:
        self._silent.intersection_update(voter.inbox for voter in voters)
        return [voter for voter in voters if voter.inbox not in self._silent]

    def _choose_drafters(self, session: Session, wanted: Drafters) -> list[Instance]:
        """One instance of each draft model."""
        crew = self._crew()
        if wanted == "needed" and session.per_round:
            _, num_accepted = session.per_round[-1]
            is_sampled = session.request.sampling.temperature > 0
            num_agreed = self.num_looked_up(session) or 0
            suffices = lookup_suffices(num_agreed, num_accepted, is_sampled)
            wanted = "lookup" if suffices else "all"
        by_name = crew.looking_up if wanted == "lookup" else crew.all
        if (chosen := session.request.steering.drafters) is not None:
            by_name = {name: by_name[name] for name in by_name if name in chosen}
        return [rendezvous(session.id, instances) for instances in by_name.values()]

    def _crew(self) -> Crew:
        """The drafters of the moment."""
        if self._known_crew is None or self._known_crew.num_changes != self._registry.num_changes:
            live = self._registry.drafters(self._target, self._vocabulary)
            looking_up = [i for i in live if i.attributes.get("kind") == "lookup"]
            self._known_crew = Crew(
                self._registry.num_changes, _by_name(live), _by_name(looking_up)
            )
        return self._known_crew

    async def _ask(
        self,
        session: Session,
        voter: Instance,
        drafters: list[Instance],
        length: int,
        price: float,
        ahead: bool,
    ) -> None:
        """One message to all, or one for each point from which some lack the context."""
        # The voter last: it has time to learn from the last round while others draft for this one.
        inboxes = [*(drafter.inbox for drafter in drafters), voter.inbox]
        for start, group in _by_start(session, inboxes).items():
            request = DraftRequest(
                request_id=session.id,
                round=session.round,
                target=self._target,
                start=start,
                tokens=session.tokens[start:],
                num_prompt_tokens=session.num_prompt_tokens,
                speculation_length=length,
                price=price,
                ahead=ahead,
                sampling=session.request.sampling,
                timeout_s=self._timeout_s * _VOTER_SHARE,
                drafters=[drafter.name for drafter in drafters],
                voter=voter.inbox,
                reply_to=self._inbox,
                outcome=session.outcome,
                vote=session.request.steering.vote,
            )
            await self._bus.send(group, request)
        session.outcome = None
        for inbox in inboxes:
            session.num_sent[inbox] = len(session.tokens)


def _by_name(instances: Sequence[Instance]) -> dict[str, list[Instance]]:
    by_name: dict[str, list[Instance]] = {}
    for instance in instances:
        by_name.setdefault(instance.name, []).append(instance)
    return by_name


def _give_up(arrival: asyncio.Future[Draft | None]) -> None:
    if not arrival.done():
        arrival.set_result(None)


def _by_start(session: Session, inboxes: Sequence[str] | dict[str, int]) -> dict[int, list[str]]:
    """Groups inboxes by the number of tokens that they know already."""
    groups: dict[int, list[str]] = {}
    for inbox in inboxes:
        groups.setdefault(session.num_sent.get(inbox, 0), []).append(inbox)
    return groups
