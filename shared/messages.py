"""Every message that crosses a process boundary, and nothing else: the wire is the architecture.
Those of tensors are in tensor_messages.py, those between gateways in gateway_messages.py.

Frozen classes of plain values, whose annotations are the wire's schema. Parts of generation's are
in generation.py. Token ids only: text exists in the gateway, and in the grammars that it passes on.
Durations are seconds measured in one process; `deadline` is a time of the bus's clock (`Bus.now`),
since it crosses machines.
"""

from __future__ import annotations

from shared.gateway_messages import Abort, Aborted
from shared.generation import Grammar, Logprobs, RoundTrace, Sampling, Steering, Times
from shared.tensor_messages import (
    DescribeRequest,
    Description,
    Outputs,
    RowsWritten,
    ScoreRequest,
    WriteRows,
    Written,
)
from shared.wire import Wired, field


class GenerateRequest(Wired, frozen=True):
    """gateway -> verifier group. Durable: acknowledged with its terminal message. No stop token is
    drawn before `min_tokens` others; `num_logprobs` of the likeliest tokens are told with each
    token, none where it is None; `num_prompt_logprobs` likewise with each of the prompt's, and only
    with it `max_tokens` may be 0; `is_traced` asks for each round as it went."""

    request_id: str
    reply_to: str
    prompt: list[int]
    max_tokens: int
    sampling: Sampling
    stop_tokens: list[int]
    deadline: float
    min_tokens: int = 0
    grammar: Grammar | None = None
    num_logprobs: int | None = None
    steering: Steering = Steering()
    is_traced: bool = False
    num_prompt_logprobs: int | None = None


class PromptLogprobs(Wired, frozen=True):
    """verifier -> gateway, before any tokens, as the prompt is computed: one for each of its tokens
    but the first, in several messages. `offset` is the prompt's token that the first one is of, so
    that a taken-over request may repeat what the gateway already has."""

    request_id: str
    sender: str
    offset: int
    logprobs: list[Logprobs]


class Tokens(Wired, frozen=True):
    """verifier -> gateway, one a round. `offset` counts generated tokens, so that a taken-over
    request may repeat what the gateway already has. Without tokens: a prefill is under way.
    `logprobs` has one of each token, `rounds` those that the tokens are of, where asked for."""

    request_id: str
    sender: str
    offset: int
    tokens: list[int]
    logprobs: list[Logprobs] = field(default_factory=list)
    rounds: list[RoundTrace] = field(default_factory=list)


class DrafterReport(Wired, frozen=True):
    """What one draft model did for one request."""

    drafter: str
    num_proposals: int
    num_proposed_tokens: int
    num_ready_tokens: int
    """Of the proposed, those drafted ahead."""
    num_agreed_tokens: int
    num_votes_won: int
    weight: float


class GenerationReport(Wired, frozen=True):
    """How the tokens of one request came to be: how many of its prompt's were in a cache already,
    and for each target pass (draft tokens, accepted)."""

    num_reused_tokens: int
    per_round: list[tuple[int, int]]
    num_timeouts: int
    times: Times
    drafters: list[DrafterReport]


class Finished(Wired, frozen=True):
    """Terminal: all `num_tokens` tokens were sent. `reason` is `stop` or `length`."""

    request_id: str
    num_tokens: int
    reason: str
    report: GenerationReport


class Failed(Wired, frozen=True):
    """Terminal: `code` is stable (shared/errors.py), `param` names the field at fault, if any."""

    request_id: str
    code: str
    message: str
    param: str | None = None


class Cancelled(Wired, frozen=True):
    """Terminal: ended because the gateway asked for it, or because nobody waits any more."""

    request_id: str
    report: GenerationReport


class Cancel(Wired, frozen=True):
    """gateway -> inbox of each verifier: stop this request wherever it is."""

    request_id: str


class Outcome(Wired, frozen=True):
    """How the `num_rounds` from `round` on fared, one unless they were plain decoding. `pass_s` is
    the time of the target's forward passes, `round_s` that of the whole rounds, drafting and
    waiting included, while the verifier had `num_running` requests in work."""

    round: int
    num_rounds: int
    num_draft_tokens: int
    num_accepted_tokens: int
    pass_s: float
    round_s: float
    num_running: int


class DraftRequest(Wired, frozen=True):
    """verifier -> inboxes of the chosen drafters and of the chosen voter, soft.

    `tokens` are those of the request's context from index `start` on; `start + len(tokens)` is
    the position to draft at. `start` is 0 for an instance that does not know the request. A token
    that the target follows with less than the probability `price` is not worth verifying. With
    `ahead`, drafters go on drafting while the target verifies. `vote` is the walk that the request
    wants, None the voter's own.
    """

    request_id: str
    round: int
    target: str
    start: int
    tokens: list[int]
    num_prompt_tokens: int
    speculation_length: int
    price: float
    ahead: bool
    sampling: Sampling
    timeout_s: float
    drafters: list[str]
    voter: str
    reply_to: str
    outcome: Outcome | None
    vote: str | None = None


class Proposal(Wired, frozen=True):
    """drafter -> voter, soft. `margins` say how sure the drafter is of each token, on a scale of
    its own; `num_ready` of the tokens had been drafted ahead; `draft_s` tells how long it took.
    `is_synced` is false where it lacks the request's context;
    it then has no tokens and the verifier sends the whole context next."""

    request_id: str
    round: int
    drafter: str
    tokens: list[int]
    margins: list[float]
    num_ready: int
    draft_s: float
    is_synced: bool


class Vote(Wired, frozen=True):
    """One drafter's part in a draft: what it proposed, of which `num_ready` tokens had been drafted
    ahead, and the weight it had."""

    drafter: str
    tokens: list[int]
    num_ready: int
    weight: float
    is_synced: bool


class Draft(Wired, frozen=True):
    """voter -> verifier, soft: the winning path, who voted, and the next speculation length.
    `survival` has the probability that the target follows the path up to each token; none where
    the whole path is to be verified, whatever it costs. `draft_s` is the time that the slowest
    drafter took, `vote_s` the voter's own."""

    request_id: str
    round: int
    tokens: list[int]
    survival: list[float]
    speculation_length: int
    draft_s: float
    vote_s: float
    votes: list[Vote]


class Release(Wired, frozen=True):
    """verifier -> drafters and voter, soft: the request ended, its state may go. `tokens` and
    `outcome` are those of the last round."""

    request_id: str
    start: int
    tokens: list[int]
    outcome: Outcome | None


class RecommendRequest(Wired, frozen=True):
    """gateway -> recommender group. `context` holds the model's context fields by name, each a
    list of values; `candidates` are scored, or the top `k` of the catalogue is returned."""

    request_id: str
    reply_to: str
    context: dict[str, list[str]]
    candidates: list[str] | None
    k: int
    deadline: float
    version: str | None = None
    """By its name or a label; None: the stable one."""


class Scores(Wired, frozen=True):
    """Terminal answer of the recommender, best first. `num_unknown` counts context values that
    the model has no row for."""

    request_id: str
    items: list[str]
    scores: list[float]
    num_unknown: int
    version: str


SpeculationMessage = DraftRequest | Proposal | Draft | Release
Reply = Tokens | PromptLogprobs | Finished | Failed | Cancelled | Scores | Outputs | Written
MESSAGES: tuple[type[Wired], ...] = (
    GenerateRequest, PromptLogprobs, Tokens, Finished, Failed, Cancelled, Cancel,
    DraftRequest, Proposal, Draft, Release, RecommendRequest, Scores,
    ScoreRequest, Outputs, WriteRows, Written, RowsWritten, DescribeRequest, Description,
    Abort, Aborted,
)  # fmt: skip
