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

    def row(self) -> Row:
        """What the decoder is to do for it."""
        session = self.job.session
        num_logits = 0 if self.job.draft is None else len(self.draft) + 1
        return Row(session.slot, self.start, self.tokens, num_logits)

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
    """Of prompts in a pass: tokens in all, and seconds by which they may prolong one that others
    wait for."""

    prefill_tokens: int
    prefill_delay_s: float


def compose(
    jobs: Sequence[Job], cost: PassCost, limits: Limits, prefixes: PrefixCache
) -> list[Share]:
    """The next pass: all drafts that are there, and beside them some of the prompts."""
    shares = _cut([job for job in jobs if job.draft is not None], cost)
    prompts = [job for job in jobs if job.draft is None]
    if not prompts:
        return shares
    room = limits.prefill_tokens
    if shares:
        num_tokens = sum(len(share.tokens) for share in shares)
        # At least one, or a prompt might wait for ever.
        room = max(1, cost.fitting(num_tokens, limits.prefill_delay_s, room))
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


def _fill(prompts: Sequence[Job], room: int, prefixes: PrefixCache) -> list[Share]:
    """The next tokens of the prompts in turn, `room` in all, behind what is known already. What
    one of them computes in this pass, the others wait for."""
    shares = []
    in_work: set[bytes] = set()
    for job in prompts:
        if not room:
            break
        session = job.session
        restored_at, restored = prefixes.find(session)
        start = max(session.num_cached, restored_at + len(restored) * prefixes.block_tokens)
        end = min(start + room, len(session.tokens) - 1)
        blocks = prefixes.keys_between(session, start, end)
        if in_work.isdisjoint(blocks):
            shares.append(Share(job, start, session.tokens[start:end], (), restored_at, restored))
            in_work.update(blocks)
            room -= end - start
    return shares
