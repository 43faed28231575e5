"""What a generation may ask for, and what can be told of it: the parts of messages. Plain values.

Texts come in here alone: a grammar is one until the verifier, which has the vocabulary, reads it.
"""

from __future__ import annotations

from shared.wire import Wired, field


class Sampling(Wired, frozen=True):
    """How the target draws a token. `temperature` 0 is greedy and needs no seed."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = field(default_factory=dict)

    @property
    def is_bare(self) -> bool:
        """Whether nothing but the temperature and filters changes the logits."""
        return not self.logit_bias and not self.is_penalized

    @property
    def is_penalized(self) -> bool:
        """Whether a draw depends on which tokens came before."""
        return (self.presence_penalty, self.frequency_penalty) != (0, 0) or (
            self.repetition_penalty != 1
        )

    @property
    def is_filtered(self) -> bool:
        """Whether unlikely tokens are not drawn at all."""
        return self.min_p > 0.0 or self.top_k > 0 or self.top_p < 1.0


class Grammar(Wired, frozen=True):
    """What the text must be: `kind` is `json` (a JSON schema), `regex`, `choice` (a JSON list of
    texts) or `lark`; `source` the request's field that it came from."""

    kind: str
    text: str
    source: str


class Steering(Wired, frozen=True):
    """How a request wants its drafts. None leaves it to the system; `length` is fixed, 0 for plain
    decoding; `vote` is the voter's walk."""

    length: int | None = None
    max_length: int | None = None
    drafters: list[str] | None = None
    vote: str | None = None


class Logprobs(Wired, frozen=True):
    """Natural logarithms of the probabilities that the target's own logits give, before sampling
    changes them: the token's, and those of the most likely tokens, best first. `rank` is the
    token's place among all, from 1 on; 0 where a verifier does not tell it yet."""

    logprob: float
    top_tokens: list[int]
    top_logprobs: list[float]
    rank: int = 0


class Times(Wired, frozen=True):
    """Where the seconds of a request's rounds went: drafters at work (the slowest of each round),
    the voter, messages on their way to and from both, waiting for a place in a pass, the target's
    forward passes, drawing tokens from their logits, and the rest."""

    drafting_s: float = 0.0
    voting_s: float = 0.0
    hops_s: float = 0.0
    waiting_s: float = 0.0
    forward_s: float = 0.0
    sampling_s: float = 0.0
    rest_s: float = 0.0

    # By name: dataclasses' own functions copy deeply, which tells at a thousand rounds a second.
    def __add__(self, other: Times) -> Times:
        return Times(
            self.drafting_s + other.drafting_s,
            self.voting_s + other.voting_s,
            self.hops_s + other.hops_s,
            self.waiting_s + other.waiting_s,
            self.forward_s + other.forward_s,
            self.sampling_s + other.sampling_s,
            self.rest_s + other.rest_s,
        )

    @property
    def total_s(self) -> float:
        drafts_s = self.drafting_s + self.voting_s + self.hops_s
        return drafts_s + self.waiting_s + self.forward_s + self.sampling_s + self.rest_s


class RoundVote(Wired, frozen=True):
    """What one drafter proposed in a round, of which `num_ready` tokens had been drafted ahead, and
    the weight that it had."""

    drafter: str
    tokens: list[int]
    weight: float
    num_ready: int = 0


class RoundTrace(Wired, frozen=True):
    """One round as it went: `num_emitted` tokens from the output's `offset` on came of `draft`, of
    which the first `num_accepted` are its own. `length` tokens were asked for, and the round began
    `started_s` after its request was taken into work, one of `num_running`."""

    index: int
    offset: int
    num_emitted: int
    length: int
    draft: list[int]
    num_accepted: int
    votes: list[RoundVote]
    started_s: float
    num_running: int
    times: Times
