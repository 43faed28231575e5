"""Continuous batching of forward passes over the target model.

One thread runs the passes. A pass holds the drafts of all requests that have one ready, cut to
what pays (draft_lengths.py), and as much of the prompts that wait as does not hold the others up,
beside the drafts or by turns with them (batch.py). Knows sessions and the decoder; not the bus,
not the drafters.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

from services.verifier import metrics
from services.verifier.batch import Job, Limits, Share, Verified, compose, shape_of
from services.verifier.draft_lengths import highest_gain, token_price
from services.verifier.drafting import AUTO, Drafting, Load, Way
from services.verifier.forward import Passed, forward
from services.verifier.logprobs import logprobs
from services.verifier.pace import Absence, Usual
from services.verifier.pass_cost import MEASURED, PassCost, Shape
from services.verifier.prefix_cache import PrefixCache
from services.verifier.session import Session
from shared.generation import Logprobs
from shared.lm.decoder import Decoder, Row

LONGEST = 8
UNUSUAL = 1.5
"""A pass takes no longer, over what it is believed to take, but by what has befallen it."""
LOGITS_BYTES = 64 << 20
"""Of prompts' logits in a pass: those whose log probabilities are told have as many as tokens."""


def _good(load: Load) -> float:
    """An acceptance that drafts seldom surpass, as `LONGEST` is such a length."""
    return 0.75 if load.num_sampled == load.num_running else 0.9


def _load_of(sessions: Sequence[Session]) -> Load:
    return Load(len(sessions), sum(s.request.sampling.temperature > 0 for s in sessions))


@dataclass(frozen=True, slots=True)
class Move:
    """A cache that changes its slot before the pass, so that slots stay contiguous."""

    source: int
    target: int
    session: Session


class Engine:
    """Takes jobs from coroutines and answers each when the pass that held it is over.

    Sessions sit in slots 0 to n-1 without a gap: the decoder binds the first rows of its buffers.
    """

    def __init__(
        self,
        decoder: Decoder,
        cost: PassCost,
        limits: Limits,
        prefixes: PrefixCache,
        ways: Sequence[Way] = AUTO,
        has_cores: Callable[[], bool] = lambda: True,
    ) -> None:
        """`has_cores` says whether drafters have cores that the decoder's passes leave alone."""
        self._decoder = decoder
        self._cost = cost
        self._drafting = Drafting(
            ways,
            lambda num_running: num_running / cost.seconds(num_running),
            lambda load: highest_gain(load.num_running, _good(load), LONGEST, cost.seconds),
            has_cores,
        )
        self._limits = replace(
            limits, told_tokens=max(1, LOGITS_BYTES // (4 * decoder.manifest.vocab_size))
        )
        self._prefixes = prefixes
        self._thread = ThreadPoolExecutor(1, "forward-pass")
        self._jobs: list[Job] = []
        self._is_prompts_turn = False
        """Whether the last pass left them out."""
        self._wanted = asyncio.Event()
        self._seated: list[Session] = []
        self._moves: list[Move] = []
        self._ended: float | None = None
        """When the last pass did, if requests have been in work ever since."""
        self._usual = Usual()
        self._away: dict[str, float] = {}
        """When each request that is between two passes was answered."""
        self._absence = Absence()
        self._arrived = asyncio.Event()

    @property
    def way(self) -> Way:
        """Who is to draft at the load of the moment."""
        return self._drafting.way(self._load())

    def _load(self) -> Load:
        """Those whose prompts wait will soon decode: drafts that let the first ones be done early
        would only make the passes over all of them smaller."""
        return _load_of(self._seated)

    @property
    def price(self) -> float:
        """The probability of acceptance from which on a draft token pays at the load of the
        moment, at most 1."""
        usual, num_running = self._usual, len(self._seated)
        # A token each, at least, however few there were before.
        num_emitted = max(usual.num_emitted, num_running)
        num_tokens = max(round(usual.num_tokens), num_running)
        return min(1.0, token_price(num_emitted, num_tokens, self._cost.seconds, usual.between_s))

    def observe_lookup(self, session: Session, num_agreed: int | None) -> None:
        """Of a round: with how many of its tokens those that look up agreed, None if none was
        asked."""
        if num_agreed is not None:
            self._drafting.observe_lookup(num_agreed, session.request.sampling.temperature > 0)

    @contextmanager
    def seat(self, session: Session) -> Iterator[None]:
        """Holds a cache slot for the session. The caller keeps to the decoder's `max_slots`."""
        session.slot = len(self._seated)
        self._seated.append(session)
        try:
            yield
        finally:
            self._away.pop(session.id, None)
            last = self._seated.pop()
            if last is not session:
                self._seated[session.slot] = last
                self._moves.append(Move(last.slot, session.slot, last))
                last.slot = session.slot
            if not self._seated:
                self._ended = None

    async def prefill(self, session: Session) -> list[Logprobs]:
        """Brings the next of the context into the cache, beside the passes of others, and tells of
        the tokens that follow on it, if the request asks for that. The last token is left to
        `verify`."""
        return (await self._submit(session, None, ())).logprobs

    async def verify(
        self, session: Session, draft: Sequence[int], survival: Sequence[float]
    ) -> Verified:
        """One target pass over as much of the draft as pays."""
        return await self._submit(session, draft, survival)

    async def run(self) -> None:
        """Runs passes as long as there are jobs, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wanted.wait()
            if self.way.num_lanes == 1 and not self._is_prompts_turn:
                await self._gather()
            shares = self._take()
            if not shares:
                continue
            # Slots as they are now: while the pass runs, requests leave and others are moved.
            rows = [share.row() for share in shares]
            load = _load_of([session for session in self._seated if session.is_decoding])
            moves = [(m.source, m.target, m.session.num_cached) for m in self._moves]
            self._moves.clear()
            num_seated = len(self._seated)
            num_held = max((s.slot + 1 for s in self._seated if s.num_cached), default=0)
            try:
                passed = await loop.run_in_executor(
                    self._thread,
                    forward,
                    self._decoder,
                    self._prefixes,
                    moves,
                    num_seated,
                    num_held,
                    rows,
                    shares,
                )
            except Exception as error:  # a failed pass fails its requests, not the engine
                for share in shares:
                    if not share.job.done.done():
                        share.job.done.set_exception(error)
                continue
            self._account(load, shares, passed)
            for block in passed.blocks:
                self._prefixes.store(*block)
            for n, share in enumerate(shares):
                share.job.session.num_cached = share.start + passed.num_kept[n]
                if not share.job.done.done():
                    share.job.done.set_result(passed.verified(n, share))
                    self._away[share.job.session.id] = time.monotonic()

    def _account(self, load: Load, shares: Sequence[Share], passed: Passed) -> None:
        """Learns what passes cost and bring; `load` are those who were decoding."""
        took = passed.took
        shape = shape_of(shares)
        num_told = sum(len(share.tokens) for share in shares if share.tells_prompt)
        if num_told:
            seconds = took.duration_s + took.sampling_s
            self._cost.observe_telling(shape, num_told, seconds)
        else:
            self._cost.observe(shape, took.duration_s)
        now = time.monotonic()
        spent_s, self._ended = now - (self._ended or now), now
        drafts = [share for share in shares if share.job.draft is not None]
        if not drafts:
            return
        num_emitted = sum(map(len, passed.emitted))
        self._usual.observe(num_emitted, shape.num_tokens)
        if len(drafts) == len(shares):
            self._usual.observe_between(max(0.0, spent_s - took.duration_s))
        # What prompts take says nothing of how drafts are had, nor do the first few of many, nor
        # what befell the pass, as buffers that had to grow.
        believed_s = self._cost.of(shape)
        usual_s = min(took.duration_s, UNUSUAL * believed_s)
        prompts_s = usual_s * (1 - self._cost.of(shape_of(drafts)) / believed_s)
        own_s = spent_s - (took.duration_s - usual_s) - prompts_s
        if own_s > 0 and not num_told and load.kind == self._load().kind:
            self._drafting.observe(load, num_emitted, own_s)

    def close(self) -> None:
        """Waits for the pass in flight and ends the thread."""
        self._thread.shutdown()

    async def _submit(
        self, session: Session, draft: Sequence[int] | None, survival: Sequence[float]
    ) -> Verified:
        done: asyncio.Future[Verified] = asyncio.get_running_loop().create_future()
        self._jobs.append(Job(session, draft, survival, done, time.perf_counter()))
        left = self._away.pop(session.id, None)
        if left is not None:
            self._absence.observe(time.monotonic() - left)
        self._wanted.set()
        self._arrived.set()
        return await done

    async def _gather(self) -> None:
        """Waits for the requests of the last passes, which are on their way back with new drafts:
        one pass for all costs less than two. Who stays away for long is not waited for, nor longer
        than a pass over those who are there would take."""
        latest = time.monotonic() + self._cost.seconds(round(self._usual.num_tokens))
        while self._away:
            expected = max(self._away.values()) + self._absence.most()
            patience_s = min(latest, expected) - time.monotonic()
            if patience_s <= 0:
                break
            self._arrived.clear()
            try:
                async with asyncio.timeout(patience_s):
                    await self._arrived.wait()
            except TimeoutError:
                break

    def _take(self) -> list[Share]:
        """What the next pass holds, nothing if all jobs were cancelled."""
        waiting = [job for job in self._jobs if not job.done.cancelled()]
        shares = compose(
            waiting,
            self._cost,
            self._limits,
            self._prefixes,
            between_s=self._usual.between_s,
            is_prompts_turn=self._is_prompts_turn,
            is_decoding=any(session.num_output_tokens for session in self._seated),
        )
        taken = [share.job for share in shares]
        self._jobs = [job for job in waiting if job not in taken]
        prompts_wait = any(job.draft is None for job in self._jobs)
        self._is_prompts_turn = prompts_wait and all(job.draft is not None for job in taken)
        if not self._jobs:
            self._wanted.clear()
        for share in shares:
            if share.job.draft is None:
                num_reused = share.start - share.job.session.num_cached
                share.job.session.num_reused_tokens += num_reused
                model, num_needed = self._decoder.manifest.name, num_reused + len(share.tokens)
                metrics.PREFIX_CACHE_HITS.labels(model).inc(num_reused)
                metrics.PREFIX_CACHE_QUERIES.labels(model).inc(num_needed)
        return shares


def measure_cost(decoder: Decoder) -> PassCost:
    """Runs passes of a few sizes, one with more padding than tokens, and the largest but one with
    all of its tokens told; passes to come tell the rest. Overwrites the cache."""

    def seconds(*rows: Row, is_told: bool = False) -> float:
        started = time.perf_counter()
        logits = decoder.forward(rows)[0]
        if is_told:
            logprobs(logits, [0] * len(logits), 1)
        return time.perf_counter() - started

    def row(num_tokens: int, num_logits: int = 2, slot: int = 0) -> Row:
        return Row(slot, 0, [0] * num_tokens, min(num_tokens, num_logits))

    sizes = [size for size in MEASURED if size <= decoder.manifest.max_context]
    measured = {size: min(seconds(row(size)) for _ in range(2)) for size in sizes}
    small = [size for size in sizes if size < MEASURED[-1]]
    most = small[-1]
    told_s = min(seconds(row(most, most), is_told=True) for _ in range(2))
    cost = PassCost(measured, max(0.0, told_s - measured[most]) / most)
    if decoder.max_slots > 1:
        slot, size = min(decoder.max_slots, 8) - 1, small[-2]
        padded_s = min(seconds(row(1), row(size, slot=slot)) for _ in range(2))
        shape = Shape().joined(0, 1).joined(slot, size)
        cost.padding_s = max(0.0, padded_s - cost.seconds(shape.num_tokens)) / shape.num_padding
    return cost
