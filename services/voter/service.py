"""The voter: merges the proposals of each round into a draft, and learns whom to trust.

Reads its inbox, answers the verifier; the only thing it waits for is a round's deadline.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Literal

from services.voter import metrics
from services.voter.config import VoterConfig
from services.voter.estimator import Estimator
from services.voter.length_controller import LengthController, LengthRule, scaled
from services.voter.rounds import RefusedError, Round, Rounds
from services.voter.useful_length import UsefulLength
from services.voter.vote import Ballot, merge
from services.voter.weights import WeightRule, Weights
from shared.bus.base import Bus
from shared.config import BusConfig
from shared.errors import BusError
from shared.messages import Draft, DraftRequest, Outcome, Proposal, Release, Vote
from shared.runner import Part
from shared.service import Service, background
from shared.tracing import Value, current

logger = logging.getLogger(__name__)

WALKS: dict[str, Literal["learned", "greedy", "heaviest-path"]] = {
    "learned": "learned",
    "greedy": "greedy",
    "heaviest-path": "heaviest-path",
}
"""Those that a request may ask for."""


class VoterService(Service):
    """Serves every target model; weights and lengths are kept for each apart."""

    def __init__(self, config: VoterConfig, bus: Bus, bus_config: BusConfig) -> None:
        super().__init__("voter", "voter", bus, bus_config)
        self._config = config
        self._rounds = Rounds(config.max_requests, config.quorum)
        self._weights: dict[str, Weights] = {}
        self._estimators: dict[str, Estimator] = {}
        self._controllers: dict[tuple[str, int], LengthController] = {}
        self._useful: dict[tuple[str, int], UsefulLength] = {}
        self._num_running: dict[str, int] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._outbound: asyncio.Queue[tuple[str, Draft]] = asyncio.Queue()
        self._weight_rule = WeightRule(config.weight_rate, config.weight_threshold)
        self._length_rule = LengthRule(
            initial=config.initial_length,
            max_length=config.max_length,
            decision_threshold=config.decision_threshold,
            window=config.window,
        )

    async def serve(self) -> None:
        """Works until drained; drafts are soft, so there is nothing to finish."""
        async with (
            self.inbox(self._receive),
            background(self._send_drafts(), self._share_weights()),
        ):
            await self.announce({})
            await self.draining.wait()

    async def _receive(self, message: object) -> None:
        match message:
            case DraftRequest():
                # Drafters of this process first: they compute while this one learns.
                await asyncio.sleep(0)
                self._open(message)
            case Proposal():
                self._add(message)
            case Release():
                self._release(message)
            case _:
                logger.warning("unexpected %s in the inbox", type(message).__name__)

    def _open(self, request: DraftRequest) -> None:
        """A new round: first the last one is settled, then the proposals are awaited."""
        last = self._rounds.last(request.request_id)
        opened = self._rounds.open(request)
        if opened is None:
            metrics.STALE_REQUESTS.inc()
            return
        opened.span, opened.opened_at = current(), time.perf_counter()
        if last is not None:
            self._settle(last, request.start, request.tokens, request.outcome)
            opened.ease = last.ease
        if not request.drafters or request.speculation_length == 0:
            self._close(opened, "nothing asked")
        elif self._rounds.is_complete(opened):
            self._close(opened, "all in")
        else:
            self._stop_timer(request.request_id)
            self._timers[request.request_id] = asyncio.get_running_loop().call_later(
                request.timeout_s, self._close, opened, "deadline"
            )

    def _add(self, proposal: Proposal) -> None:
        try:
            opened = self._rounds.add(proposal)
        except RefusedError as reason:
            metrics.REFUSED_PROPOSALS.labels(str(reason)).inc()
            return
        if self._rounds.is_complete(opened):
            self._close(opened, "all in")

    def _close(self, opened: Round, closed_by: str) -> None:
        """Votes, and hands the draft to the sender."""
        if opened.is_closed:
            return
        started = time.perf_counter()
        request = opened.request
        self._stop_timer(request.request_id)
        if closed_by == "deadline":
            opened.give_up()
        weights = self._weights_of(request.target)
        votes = [
            Vote(name, proposal.tokens, proposal.num_ready, weights.of(name), proposal.is_synced)
            for name, proposal in sorted(opened.proposals.items())
        ]
        tokens, survival = self._merge(opened, votes)
        opened.draft = tokens
        metrics.ROUNDS.labels(closed_by).inc()
        for vote in votes:
            if _has_won(vote.tokens, tokens):
                metrics.VOTES_WON.labels(vote.drafter).inc()
        for name in set(request.drafters) - set(opened.proposals):
            metrics.LATE_PROPOSALS.labels(name).inc()
        length = self._next_length(opened, survival)
        is_whole = self._config.length == "climb" or self._config.fixed_length is not None
        draft = Draft(
            request.request_id,
            request.round,
            tokens,
            [] if is_whole else survival,
            length,
            opened.draft_s,
            time.perf_counter() - started,
            votes,
        )
        self._outbound.put_nowait((request.reply_to, draft))
        if opened.span.traceparent is not None:
            self._trace(opened, draft, closed_by)

    def _trace(self, opened: Round, draft: Draft, closed_by: str) -> None:
        """From the request for a draft to the draft: most of it is waiting for proposals."""
        told: dict[str, Value] = {
            "quorum.round": draft.round,
            "quorum.closed_by": closed_by,
            "quorum.voters": [vote.drafter for vote in draft.votes],
            "quorum.num_draft_tokens": len(draft.tokens),
            "quorum.vote_s": draft.vote_s,
        }
        ended = time.perf_counter()
        self.tracer.record("vote", opened.span, opened.opened_at, ended, told)

    def _merge(self, opened: Round, votes: Sequence[Vote]) -> tuple[list[int], list[float]]:
        """The draft, and the chance of each of its tokens."""
        estimator = self._estimator_of(opened.request.target)
        length = opened.request.speculation_length
        walk = WALKS.get(opened.request.vote or "", self._config.walk)
        if walk == "learned":
            return estimator.draft(opened.opinions, opened.ease, length)
        ballots = [Ballot(vote.tokens, vote.weight) for vote in votes]
        tokens = merge(ballots, walk, length)
        return tokens, estimator.follow(tokens, opened.opinions, opened.ease)

    def _release(self, release: Release) -> None:
        last = self._rounds.release(release)
        self._stop_timer(release.request_id)
        if last is not None:
            self._settle(last, release.start, release.tokens, release.outcome)

    def _settle(
        self, last: Round, start: int, tokens: Sequence[int], outcome: Outcome | None
    ) -> None:
        """Judges a round's proposals by what the target emitted, and its length by the cost."""
        request = last.request
        emitted = last.emitted(start, tokens)
        if emitted is not None:
            weights = self._weights_of(request.target)
            for name, proposal in last.proposals.items():
                if self._config.weigh == "all" or _has_won(proposal.tokens, last.draft or []):
                    weights.observe(name, proposal.tokens, emitted)
            self._estimator_of(request.target).learn(last.opinions, emitted, last.ease)
            last.learn_ease(emitted)
        if outcome is not None and outcome.round == request.round:
            self._num_running[request.target] = outcome.num_running
            asked = request.speculation_length
            num_emitted = max(0, outcome.num_accepted_tokens) + outcome.num_rounds
            self._controller(request.target).observe(
                asked, num_emitted, outcome.round_s, outcome.num_rounds
            )
            self._useful_length(request.target).draft_price.observe(
                asked, last.draft_s, num_emitted, outcome.round_s
            )

    def _next_length(self, opened: Round, survival: Sequence[float]) -> int:
        request = opened.request
        if self._config.fixed_length is not None:
            return self._config.fixed_length
        if self._config.length == "useful":
            length = self._useful_length(request.target).next(
                request.speculation_length, survival, request.price, opened.ease
            )
        else:
            length = self._controller(request.target).length
        metrics.SPECULATION_LENGTH.labels(request.target).set(length)
        return length

    def _estimator_of(self, target: str) -> Estimator:
        if target not in self._estimators:
            self._estimators[target] = Estimator()
        return self._estimators[target]

    def _weights_of(self, target: str) -> Weights:
        if target not in self._weights:
            self._weights[target] = Weights(self._weight_rule)
        return self._weights[target]

    def _controller(self, target: str) -> LengthController:
        """One for each power of two of requests in work: what pays depends on the load. The more
        there are, the more rounds are under way after a change, and the later it is judged."""
        size = self._size(target)
        if (target, size) not in self._controllers:
            self._controllers[target, size] = LengthController(scaled(self._length_rule, size))
        return self._controllers[target, size]

    def _useful_length(self, target: str) -> UsefulLength:
        """Likewise one for each power of two of requests in work."""
        key = target, self._size(target)
        if key not in self._useful:
            self._useful[key] = UsefulLength(self._config.max_length, is_alone=key[1] < 2)
        return self._useful[key]

    def _size(self, target: str) -> int:
        return self._num_running.get(target, 1).bit_length()

    def _stop_timer(self, request_id: str) -> None:
        timer = self._timers.pop(request_id, None)
        if timer is not None:
            timer.cancel()

    async def _send_drafts(self) -> None:
        while True:
            ready = [await self._outbound.get()]
            while not self._outbound.empty():
                ready.append(self._outbound.get_nowait())
            try:
                await self.bus.send_all(ready)
            except BusError as error:
                logger.warning("drafts lost: %s", error)

    async def _share_weights(self) -> None:
        """Exchanges what was learned with the other voters, off the critical path."""
        rule = self._weight_rule
        while True:
            await asyncio.sleep(self._config.flush_s)
            for target, weights in list(self._weights.items()):
                factors = weights.take_factors()
                try:
                    board = await self.bus.scale(f"weights.{target}", factors, rule.low, rule.high)
                except BusError as error:
                    logger.warning("weights not shared: %s", error)
                    weights.put_back(factors)
                    continue
                weights.refresh(board)
                for name in board:
                    metrics.WEIGHT.labels(target, name).set(weights.of(name))


def _has_won(proposed: Sequence[int], draft: list[int]) -> bool:
    """The whole draft was this drafter's."""
    return bool(draft) and list(proposed[: len(draft)]) == draft


def build(config: VoterConfig, bus: Bus, bus_config: BusConfig) -> list[Service]:
    """One voter."""
    return [VoterService(config, bus, bus_config)]


PART = Part("voter", VoterConfig, build)
