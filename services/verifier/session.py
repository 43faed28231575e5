"""The verifier's state of one request: its tokens, its place in the cache, its speculation."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.verifier.acceptance import Rules
from services.verifier.grammar import Matcher
from shared.generation import RoundTrace, RoundVote, Times
from shared.messages import DrafterReport, GenerateRequest, GenerationReport, Outcome, Vote
from shared.tokens import common_length


@dataclass(slots=True)
class DrafterTally:
    """Counts of one draft model over the rounds of a request."""

    num_proposals: int = 0
    num_proposed_tokens: int = 0
    num_ready_tokens: int = 0
    num_agreed_tokens: int = 0
    num_votes_won: int = 0
    weight: float = 1.0

    def add(self, vote: Vote, draft: Sequence[int], num_agreed: int) -> None:
        """Counts one vote, now that it is known with how many of its tokens the target agreed."""
        self.weight = vote.weight
        if not vote.tokens:
            return
        self.num_proposals += 1
        self.num_proposed_tokens += len(vote.tokens)
        self.num_ready_tokens += vote.num_ready
        self.num_agreed_tokens += num_agreed
        self.num_votes_won += bool(draft) and common_length(vote.tokens, draft) == len(draft)


@dataclass(slots=True)
class Session:
    """One request in work. `tokens` holds prompt and output; the cache of `slot` holds the first
    `num_cached` of them. `id` is new for each delivery, so that a request that runs twice after
    a fault does not mix up its speculation."""

    request: GenerateRequest
    speculation_length: int
    matcher: Matcher | None = None
    """Where it is in its grammar, if it has one."""
    started: float = field(default_factory=time.perf_counter)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    tokens: list[int] = field(default_factory=list)
    num_cached: int = 0
    slot: int = 0
    round: int = 0
    reason: str | None = None
    outcome: Outcome | None = None
    """Of the rounds since the voter was told last."""
    next_plain_report: int = 0
    """The round in which it is told again although nothing is to be drafted."""
    num_sent: dict[str, int] = field(default_factory=dict)
    per_round: list[tuple[int, int]] = field(default_factory=list)
    num_timeouts: int = 0
    num_reused_tokens: int = 0
    """Of the prompt, those whose keys and values were there already."""
    block_keys: list[bytes] = field(default_factory=list)
    """Hashes of the text up to the end of each whole block (prefix_cache.py)."""
    times: Times = field(default_factory=Times)
    tallies: dict[str, DrafterTally] = field(default_factory=dict)
    num_agreed: dict[str, int] = field(default_factory=dict)
    """With how many of the last round's tokens each draft model agreed that was asked."""

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.prompt)

    @property
    def num_uncached(self) -> int:
        """Tokens that the target has not seen: one between rounds, the last that it emitted."""
        return len(self.tokens) - self.num_cached

    @property
    def is_decoding(self) -> bool:
        """Whether its prompt is in the cache."""
        return self.num_uncached <= 1

    @property
    def num_output_tokens(self) -> int:
        return len(self.tokens) - self.num_prompt_tokens

    @property
    def tells_prompt(self) -> bool:
        """Whether log probabilities of the prompt's tokens are asked for: then each is computed,
        whatever a cache holds."""
        return self.request.num_prompt_logprobs is not None

    @property
    def num_remaining_tokens(self) -> int:
        return self.request.max_tokens - self.num_output_tokens

    def emit(self, tokens: Sequence[int]) -> list[int]:
        """Appends what the target emitted, up to a stop token or the length limit, and returns
        what was appended. A stop token is emitted as the last one."""
        emitted: list[int] = []
        for token in tokens:
            emitted.append(token)
            if token in self.request.stop_tokens or self._completes(token):
                self.reason = "stop"
                break
            if len(emitted) == self.num_remaining_tokens:
                self.reason = "length"
                break
        self.tokens += emitted
        return emitted

    def _completes(self, token: int) -> bool:
        """Whether it brings the grammar, which takes it in, to its end."""
        if self.matcher is None:
            return False
        self.matcher.advance(token)
        return self.matcher.is_complete

    def rules(self, draft: Sequence[int]) -> Rules:
        """What may be drawn at the places of a draft. Computes masks: not for the event loop."""
        allowed = self.matcher.allowed(draft) if self.matcher is not None else ()
        return Rules(self.request.stop_tokens, self.request.min_tokens, allowed)

    def trace(
        self,
        length: int,
        draft: Sequence[int],
        votes: Sequence[Vote],
        emitted: Sequence[int],
        took: Took,
        times: Times,
        began: float,
    ) -> RoundTrace:
        """The round that these make, before it is settled; `began` by `time.perf_counter`."""
        return RoundTrace(
            self.round,
            self.num_output_tokens - len(emitted),
            len(emitted),
            length,
            list(draft),
            common_length(draft, emitted),
            [RoundVote(v.drafter, v.tokens, v.weight, v.num_ready) for v in votes],
            began - self.started,
            took.num_running,
            times,
        )

    def settle(
        self,
        draft: Sequence[int],
        votes: Sequence[Vote],
        emitted: Sequence[int],
        took: Took,
        times: Times,
    ) -> None:
        """Closes a round: what was drafted, what came of it, and where the time went."""
        self.times += times
        num_accepted = common_length(draft, emitted)
        self.per_round.append((len(draft), num_accepted))
        since = self.outcome or Outcome(self.round, 0, 0, 0, 0.0, 0.0, 0)
        self.outcome = Outcome(
            since.round,
            since.num_rounds + 1,
            since.num_draft_tokens + len(draft),
            since.num_accepted_tokens + num_accepted,
            since.pass_s + took.duration_s,
            since.round_s + times.total_s,
            took.num_running,
        )
        self.num_agreed = {vote.drafter: common_length(vote.tokens, emitted) for vote in votes}
        for vote in votes:
            tally = self.tallies.setdefault(vote.drafter, DrafterTally())
            tally.add(vote, draft, self.num_agreed[vote.drafter])
        self.round += 1

    def report(self) -> GenerationReport:
        """What the terminal message says of how it went."""
        drafters = [
            DrafterReport(
                name,
                tally.num_proposals,
                tally.num_proposed_tokens,
                tally.num_ready_tokens,
                tally.num_agreed_tokens,
                tally.num_votes_won,
                tally.weight,
            )
            for name, tally in sorted(self.tallies.items())
        ]
        return GenerationReport(
            self.num_reused_tokens, self.per_round, self.num_timeouts, self.times, drafters
        )


@dataclass(frozen=True, slots=True)
class Took:
    """The cost of a forward pass: when it began by `time.perf_counter`, its seconds and those of
    drawing from its logits, and the requests that were in work meanwhile."""

    started: float
    duration_s: float
    sampling_s: float
    num_running: int
