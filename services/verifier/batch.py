"""What goes into a forward pass: drafts as long as pays, and as much of the prompts as has room,
beside the drafts or in a pass of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.verifier.acceptance import Drafted
from services.verifier.draft_lengths import choose_lengths
from services.verifier.pass_cost import PassCost, Shape, fitting
from services.verifier.prefix_cache import PrefixCache
from services.verifier.session import Session, Took
from shared.generation import Logprobs
from shared.lm.decoder import FloatArray, Row

FEW_TOKENS = 8
"""A pass of so few takes hardly longer than one of a single token."""
CLEARLY = 1.05
"""How many times as many tokens a second have to go through by turns for prompts to go alone."""


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
    """What prompts may have of a pass."""

    def __init__(self, shape: Shape, limit_s: float, cost: PassCost, limits: Limits) -> None:
        """Of a pass that has this shape without them, and is to take so long at most."""
        self._shape = shape
        self._limit_s = limit_s
        self._cost = cost
        self._num_left = limits.prefill_tokens
        self._num_told_left = limits.told_tokens
        self._is_untouched = True

    def most(self, slot: int, is_told: bool) -> int:
        """How many tokens of the next prompt may go along."""
        num_left = min(self._num_left, self._num_told_left) if is_told else self._num_left
        each_s = self._cost.telling_s if is_told else 0.0

        def seconds(num_tokens: int) -> float:
            return self._cost.of(self._shape.joined(slot, num_tokens)) + num_tokens * each_s

        found = fitting(seconds, self._limit_s, num_left)
        # At least one, or a prompt might wait for ever.
        return max(1, found) if self._is_untouched else found

    def take(self, slot: int, num_tokens: int, is_told: bool) -> None:
        """They go along."""
        self._is_untouched = False
        self._shape = self._shape.joined(slot, num_tokens)
        self._num_left -= num_tokens
        if is_told:
            self._num_told_left -= num_tokens
            self._limit_s -= num_tokens * self._cost.telling_s


def compose(
    jobs: Sequence[Job],
    cost: PassCost,
    limits: Limits,
    prefixes: PrefixCache,
    *,
    between_s: float = 0.0,
    is_prompts_turn: bool = False,
    is_decoding: bool = False,
) -> list[Share]:
    """The next pass: all drafts that are there and beside them some of the prompts, or prompts
    alone if it is their turn, where by turns more tokens go through in the time. If some requests
    are decoding, also those that have no draft here, they are not held up for long. `between_s`
    is what usually passes between two passes over drafts."""
    drafts = _cut([job for job in jobs if job.draft is not None], cost, between_s)
    prompts = [job for job in jobs if job.draft is None]
    prompts.sort(key=lambda job: _due(job.session, cost, prefixes))
    if not prompts:
        return drafts
    # What is shorter than the shortest passes there are cannot be kept.
    alone_s = max(limits.prefill_delay_s, cost.seconds(FEW_TOKENS))
    if not drafts:
        limit_s = alone_s if is_decoding else cost.seconds(limits.prefill_tokens)
        return _fill(prompts, Room(Shape(), limit_s, cost, limits), prefixes)
    shape = shape_of(drafts)
    beside_s = cost.of(shape) + limits.prefill_delay_s
    beside = _fill(prompts, Room(shape, beside_s, cost, limits), prefixes)
    alone = _fill(prompts, Room(Shape(), alone_s, cost, limits), prefixes)
    together, apart = shape_of([*drafts, *beside]), shape_of(alone)
    rate = together.num_tokens / cost.of(together)
    rate_by_turns = (shape.num_tokens + apart.num_tokens) / (cost.of(shape) + cost.of(apart))
    if rate * CLEARLY >= rate_by_turns:
        return [*drafts, *beside]
    return alone if is_prompts_turn else drafts


def shape_of(shares: Iterable[Share]) -> Shape:
    """Of a pass over them."""
    shape = Shape()
    for share in shares:
        shape = shape.joined(share.job.session.slot, len(share.tokens))
    return shape


def _cut(jobs: Sequence[Job], cost: PassCost, between_s: float) -> list[Share]:
    """The drafts, each as long as pays in the company of the others; those whose chances are
    not told, whole."""
    if not jobs:
        return []
    fresh = [job.session.tokens[job.session.num_cached :] for job in jobs]
    certain = [
        len(tokens) + (0 if job.survival else len(job.draft or ()))
        for job, tokens in zip(jobs, fresh, strict=True)
    ]
    slots = [job.session.slot for job in jobs]
    lengths = choose_lengths(
        [job.survival for job in jobs],
        certain,
        cost.seconds,
        between_s,
        num_slots=max(slots) - min(slots) + 1,
        padding_s=cost.padding_s,
    )
    shares = []
    for job, tokens, length in zip(jobs, fresh, lengths, strict=True):
        draft = list(job.draft or ())
        if job.survival:
            draft = draft[:length]
        shares.append(Share(job, job.session.num_cached, [*tokens, *draft], draft))
    return shares


def _due(session: Session, cost: PassCost, prefixes: PrefixCache) -> float:
    """When the rest of its prompt would have been read, had nobody else been there since it came.
    Who is due first goes first: prompts are ended, not all begun, so that their requests decode in
    large passes early; and a long one lets those pass that come while it would be read, no others.
    """
    num_known = session.num_cached if session.tells_prompt else prefixes.num_known(session)
    return session.started + cost.seconds(len(session.tokens) - num_known)


def _fill(prompts: Sequence[Job], room: Room, prefixes: PrefixCache) -> list[Share]:
    """The next tokens of the prompts in order, as far as there is room, behind what is known
    already. What one of them computes in this pass, the others wait for. But a prompt whose tokens
    are told of is computed whole, whatever is known."""
    shares = []
    in_work: set[bytes] = set()
    for job in prompts:
        session, is_told = job.session, job.session.tells_prompt
        if not (most := room.most(session.slot, is_told)):
            continue
        restored_at, restored = (0, []) if is_told else prefixes.find(session)
        start = max(session.num_cached, restored_at + len(restored) * prefixes.block_tokens)
        end = min(start + most, len(session.tokens) - 1)
        blocks = prefixes.keys_between(session, start, end)
        if is_told or in_work.isdisjoint(blocks):
            shares.append(Share(job, start, session.tokens[start:end], (), restored_at, restored))
            in_work.update(blocks)
            room.take(session.slot, end - start, is_told)
    return shares
