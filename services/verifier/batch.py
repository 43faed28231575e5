"""What goes into a forward pass: drafts as long as pays, and as much of the prompts as has room."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from services.verifier.acceptance import Drafted
from services.verifier.draft_lengths import choose_lengths
from services.verifier.pass_cost import PassCost
from services.verifier.prefix_cache import PrefixCache
from services.verifier.session import Session, Took
from shared.generation import Logprobs
from shared.lm.decoder import FloatArray, Row


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What one request wants of a pass: a draft verified, or the next of its prompt cached."""

    session: Session
    draft: Sequence[int] | None
    """None for a prompt."""
    survival: Sequence[float]
    """Probability that each token of the draft is accepted."""
    done: asyncio.Future[Verified]
    submitted: float
    """By `time.perf_counter`."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What came of a job: the part of its draft that was verified, the tokens that the target
    emits, what is to be told of each, what the pass cost, and for how long the job had waited for
    it."""

    draft: Sequence[int]
    tokens: list[int]
    logprobs: list[Logprobs]
    took: Took
    waiting_s: float


@dataclass(frozen=True, slots=True)
class Share:
    """A job's part of a pass: its tokens behind the first `start` in its cache, the draft last."""

    job: Job
    start: int
    tokens: Sequence[int]
    draft: Sequence[int] = ()
    restored_at: int = 0
    restored: Sequence[FloatArray] = ()
    """Blocks of the prefix cache that are put in from token `restored_at` on, before the pass."""

    @property
    def tells_prompt(self) -> bool:
        """Whether it is of a prompt whose tokens' log probabilities are told."""
        return self.job.draft is None and self.job.session.tells_prompt

    def row(self) -> Row:
        """What the decoder is to do for it."""
        num_logits = 0 if self.job.draft is None else len(self.draft) + 1
        if self.tells_prompt:
            num_logits = len(self.tokens)
        return Row(self.job.session.slot, self.start, self.tokens, num_logits)

    def following(self) -> list[int]:
        """Of a prompt: the token behind each of its own."""
        end = self.start + len(self.tokens)
        return self.job.session.tokens[self.start + 1 : end + 1]

    def drafted(self) -> Drafted:
        """What the target's logits are to be compared with."""
        session = self.job.session
        return Drafted(
            self.draft,
            session.tokens,
            session.num_prompt_tokens,
            session.request.sampling,
            session.rules(self.draft),
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """Of prompts in a pass: tokens in all, seconds by which they may prolong one that others wait
    for, and tokens whose log probabilities are told."""

    prefill_tokens: int
    prefill_delay_s: float
    told_tokens: int = 256


class Room:
    """What prompts may have of a pass that holds `num_tokens` of others."""

    def __init__(self, num_tokens: int, cost: PassCost, limits: Limits) -> None:
        self._num_tokens = num_tokens
        self._cost = cost
        self._num_left = limits.prefill_tokens
        self._num_told_left = limits.told_tokens
        self._limit_s = cost.seconds(limits.prefill_tokens)
        """That a pass of prompts alone would take, were nothing told."""
        if num_tokens:
            self._limit_s = cost.seconds(num_tokens) + limits.prefill_delay_s
        self._is_untouched = True

    def most(self, is_told: bool) -> int:
        """How many tokens of the next prompt may go along."""
        num_tokens = min(self._num_left, self._num_told_left) if is_told else self._num_left
        each_s = self._cost.telling_s if is_told else 0.0
        found = self._cost.fitting(self._num_tokens, self._limit_s, num_tokens, each_s)
        # At least one, or a prompt might wait for ever.
        return max(1, found) if self._is_untouched else found

    def take(self, num_tokens: int, is_told: bool) -> None:
        """They go along."""
        self._is_untouched = False
        self._num_tokens += num_tokens
        self._num_left -= num_tokens
        if is_told:
            self._num_told_left -= num_tokens
            self._limit_s -= num_tokens * self._cost.telling_s


def compose(
    jobs: Sequence[Job], cost: PassCost, limits: Limits, prefixes: PrefixCache
) -> list[Share]:
    """The next pass: all drafts that are there, and beside them some of the prompts."""
    shares = _cut([job for job in jobs if job.draft is not None], cost)
    prompts = [job for job in jobs if job.draft is None]
    if not prompts:
        return shares
    room = Room(sum(len(share.tokens) for share in shares), cost, limits)
    return shares + _fill(prompts, room, prefixes)


def _cut(jobs: Sequence[Job], cost: PassCost) -> list[Share]:
    """The drafts, each as long as pays in the company of the others; those whose chances are
    not told, whole."""
    fresh = [job.session.tokens[job.session.num_cached :] for job in jobs]
    num_certain = sum(map(len, fresh)) + sum(len(j.draft or ()) for j in jobs if not j.survival)
    lengths = choose_lengths([job.survival for job in jobs], num_certain, cost.seconds)
    shares = []
    for job, tokens, length in zip(jobs, fresh, lengths, strict=True):
        draft = list(job.draft or ())
        if job.survival:
            draft = draft[:length]
        shares.append(Share(job, job.session.num_cached, [*tokens, *draft], draft))
    return shares


def _fill(prompts: Sequence[Job], room: Room, prefixes: PrefixCache) -> list[Share]:
    """The next tokens of the prompts in turn, as far as there is room, behind what is known
    already. What one of them computes in this pass, the others wait for. But a prompt whose tokens
    are told of is computed whole, whatever is known."""
    shares = []
    in_work: set[bytes] = set()
    for job in prompts:
        session, is_told = job.session, job.session.tells_prompt
        if not (most := room.most(is_told)):
            continue
        restored_at, restored = (0, []) if is_told else prefixes.find(session)
        start = max(session.num_cached, restored_at + len(restored) * prefixes.block_tokens)
        end = min(start + most, len(session.tokens) - 1)
        blocks = prefixes.keys_between(session, start, end)
        if is_told or in_work.isdisjoint(blocks):
            shares.append(Share(job, start, session.tokens[start:end], (), restored_at, restored))
            in_work.update(blocks)
            room.take(end - start, is_told)
    return shares
