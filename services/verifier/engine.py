"""Continuous batching of forward passes over the target model.

One thread runs the passes. A pass holds either the drafts of all requests that have one ready, or
the next prompt chunks of requests that are not prefilled yet; the two kinds take turns when both
wait, so neither starves. Knows sessions and the decoder; not the bus, not the drafters.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from services.verifier import metrics
from services.verifier.acceptance import accept
from services.verifier.session import Session, Took
from shared.lm.decoder import Decoder, Row


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One request's share of a pass: tokens behind those in its cache, the draft last."""

    session: Session
    tokens: Sequence[int]
    draft: Sequence[int] | None
    """None in a prefill, which wants no logits."""
    done: asyncio.Future[tuple[list[int], Took]]


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

    def __init__(self, decoder: Decoder, prefill_tokens: int) -> None:
        self._decoder = decoder
        self._prefill_tokens = prefill_tokens
        self._thread = ThreadPoolExecutor(1, "forward-pass")
        self._jobs: list[Job] = []
        self._wanted = asyncio.Event()
        self._seated: list[Session] = []
        self._moves: list[Move] = []
        self._prefilled_last = False

    @contextmanager
    def seat(self, session: Session) -> Iterator[None]:
        """Holds a cache slot for the session. The caller keeps to the decoder's `max_slots`."""
        session.slot = len(self._seated)
        self._seated.append(session)
        metrics.REQUESTS_RUNNING.set(len(self._seated))
        try:
            yield
        finally:
            last = self._seated.pop()
            if last is not session:
                self._seated[session.slot] = last
                self._moves.append(Move(last.slot, session.slot, last))
                last.slot = session.slot
            metrics.REQUESTS_RUNNING.set(len(self._seated))

    async def prefill(self, session: Session) -> None:
        """Brings the next chunk of the context into the cache, between the passes of others. The
        last token is left to `verify`."""
        end = session.num_cached + min(session.num_uncached - 1, self._prefill_tokens)
        await self._submit(session, session.tokens[session.num_cached : end], None)

    async def verify(self, session: Session, draft: Sequence[int]) -> tuple[list[int], Took]:
        """One target pass over the draft: the tokens that the target emits, and the cost."""
        return await self._submit(session, [*session.tokens[session.num_cached :], *draft], draft)

    async def run(self) -> None:
        """Runs passes as long as there are jobs, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wanted.wait()
            batch = self._take()
            if not batch:
                continue
            rows = [_row(job) for job in batch]
            moves = [(m.source, m.target, m.session.num_cached) for m in self._moves]
            self._moves.clear()
            try:
                results, took = await loop.run_in_executor(
                    self._thread, self._forward, moves, rows, batch
                )
            except Exception as error:  # a failed pass fails its requests, not the engine
                for job in batch:
                    if not job.done.done():
                        job.done.set_exception(error)
                continue
            for job, emitted in zip(batch, results, strict=True):
                # The last emitted token is not in the cache: the pass ended before it.
                num_rejected = 0 if job.draft is None else len(job.draft) + 1 - len(emitted)
                job.session.num_cached += len(job.tokens) - num_rejected
                if not job.done.done():
                    job.done.set_result((emitted, took))

    def close(self) -> None:
        """Waits for the pass in flight and ends the thread."""
        self._thread.shutdown()

    async def _submit(
        self, session: Session, tokens: Sequence[int], draft: Sequence[int] | None
    ) -> tuple[list[int], Took]:
        done: asyncio.Future[tuple[list[int], Took]] = asyncio.get_running_loop().create_future()
        self._jobs.append(Job(session, tokens, draft, done))
        self._wanted.set()
        return await done

    def _take(self) -> list[Job]:
        """The jobs of the next pass, none if all were cancelled."""
        waiting = [job for job in self._jobs if not job.done.cancelled()]
        prefills = [job for job in waiting if job.draft is None]
        verifications = [job for job in waiting if job.draft is not None]
        self._prefilled_last = bool(prefills) and not (verifications and self._prefilled_last)
        taken = self._fitting(prefills) if self._prefilled_last else verifications
        self._jobs = [job for job in waiting if job not in taken]
        if not self._jobs:
            self._wanted.clear()
        return taken

    def _fitting(self, prefills: list[Job]) -> list[Job]:
        """The first prefills whose padded pass stays within `prefill_tokens`."""
        longest = 0
        for count, job in enumerate(prefills):
            longest = max(longest, len(job.tokens))
            if count and longest * (count + 1) > self._prefill_tokens:
                return prefills[:count]
        return prefills

    def _forward(
        self, moves: list[tuple[int, int, int]], rows: list[Row], batch: list[Job]
    ) -> tuple[list[list[int]], Took]:
        """On the engine's thread: the pass, and the target's tokens for each job."""
        for source, target, length in moves:
            self._decoder.move(source, target, length)
        started = time.perf_counter()
        logits = self._decoder.forward(rows)
        duration_s = time.perf_counter() - started
        kind = "prefill" if batch[0].draft is None else "decode"
        metrics.FORWARD_PASS_SECONDS.labels(kind).observe(duration_s)
        metrics.FORWARD_PASS_ROWS.labels(kind).observe(len(batch))
        emitted = [
            []
            if job.draft is None
            else accept(
                rows_logits,
                job.draft,
                job.session.tokens,
                job.session.num_prompt_tokens,
                job.session.request.sampling,
            )
            for job, rows_logits in zip(batch, logits, strict=True)
        ]
        return emitted, Took(duration_s, len(self._seated))


def _row(job: Job) -> Row:
    num_logits = 0 if job.draft is None else len(job.draft) + 1
    return Row(job.session.slot, job.session.num_cached, job.tokens, num_logits)
