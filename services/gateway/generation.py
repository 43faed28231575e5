"""One completion from admission to its end: tokens in, text out, stop strings, the clock.

A choice is one straight asynchronous generator; routes only shape what it yields.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field

from services.gateway import metrics
from services.gateway.details import Told, Tracer
from services.gateway.replies import Arrival, Replies, Request, Terminal, Waiter
from services.gateway.responses import Json
from services.gateway.stops import StopScanner
from services.gateway.tally import Tally
from services.gateway.text import Detokenizer, TextModel
from shared.bus.base import Bus
from shared.errors import InvalidRequestError, QuorumError, UnavailableError
from shared.generation import Grammar, Sampling, Steering
from shared.log import request_scope
from shared.messages import Cancel, Cancelled, Failed, Finished, GenerateRequest, GenerationReport
from shared.registry import Registry
from shared.topics import batch_generate_requests, generate_requests

logger = logging.getLogger(__name__)
GRACE_S = 2.0
"""Beyond the deadline, for the verifier's own message that it has passed."""


class DeadlineError(QuorumError):
    code = "deadline_exceeded"


class FailedError(QuorumError):
    """A service reported that the request failed."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.code = failed.code


def raise_failed(failed: Failed) -> None:
    """The error that a Failed message stands for."""
    if failed.code == InvalidRequestError.code:
        raise InvalidRequestError(failed.message, failed.param)
    if failed.code == DeadlineError.code:
        raise DeadlineError(failed.message)
    raise FailedError(failed)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one choice asks for."""

    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling
    stop_tokens: Sequence[int]
    stops: Sequence[str]
    timeout_s: float
    min_tokens: int = 0
    grammar: Grammar | None = None
    num_logprobs: int | None = None
    steering: Steering = field(default_factory=Steering)
    is_traced: bool = False
    kept_markers: Sequence[str] = ()
    """Of the template: those that are part of the text."""
    is_batch: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """Newly certain text, all tokens so far, and what was asked for of those that came since the
    last piece; the last one has a reason and a report."""

    text: str
    num_tokens: int
    told: list[Told] = field(default_factory=list)
    rounds: list[Json] = field(default_factory=list)
    reason: str | None = None
    report: GenerationReport | None = None


class Generator:
    """Turns wanted choices into pieces of text."""

    def __init__(
        self,
        bus: Bus,
        registry: Registry,
        inbox: str,
        text: TextModel,
        replies: Replies,
        tally: Tally,
    ) -> None:
        self._bus = bus
        self._registry = registry
        self._inbox = inbox
        self._text = text
        self._replies = replies
        self._tally = tally

    async def generate(self, wanted: Wanted) -> AsyncGenerator[Piece, None]:
        """Pieces up to one with a reason. Raises QuorumErrors; whoever stops listening early
        cancels the request everywhere."""
        model = self._text.manifest.name
        await self._registry.require("verifier", model)
        request = GenerateRequest(
            uuid.uuid4().hex,
            self._inbox,
            list(wanted.prompt),
            wanted.max_tokens,
            wanted.sampling,
            list(wanted.stop_tokens),
            self._bus.now() + wanted.timeout_s,
            wanted.min_tokens,
            wanted.grammar,
            wanted.num_logprobs,
            wanted.steering,
            wanted.is_traced,
        )
        topic = (batch_generate_requests if wanted.is_batch else generate_requests)(model)
        is_over = False
        with request_scope(request.request_id), self._replies.waiting(request, topic) as waiter:
            clock = Clock(model, waiter)
            try:
                await self._bus.publish(topic, request)
                events = self._replies.events(waiter, wanted.timeout_s + GRACE_S)
                async for piece in self._pieces(request, wanted, events, clock):
                    is_over = piece.reason is not None
                    yield piece
            except TimeoutError as error:
                metrics.FAILURES.labels(model, DeadlineError.code).inc()
                raise DeadlineError(f"no answer within {wanted.timeout_s:g} s") from error
            except QuorumError as error:
                is_over = isinstance(error, FailedError | InvalidRequestError)
                metrics.FAILURES.labels(model, error.code).inc()
                raise
            finally:
                if not is_over:
                    await self._cancel(request)

    async def _pieces(
        self,
        request: GenerateRequest,
        wanted: Wanted,
        events: AsyncIterator[Arrival | Terminal],
        clock: Clock,
    ) -> AsyncIterator[Piece]:
        detokenizer = Detokenizer(self._text, wanted.kept_markers)
        scanner = StopScanner(wanted.stops)
        aside = Aside(self._text)
        num_tokens = 0
        async for event in events:
            if isinstance(event, Arrival):
                clock.tick(len(event.tokens))
                text = ""
                for token in event.tokens if not scanner.is_stopped else ():
                    num_tokens += 1
                    new = detokenizer.push(token)
                    # What the request does not want to stop yet cannot be a stop.
                    text += scanner.push(new) if num_tokens > request.min_tokens else new
                    if scanner.is_stopped:
                        # The verifier knows no text; its terminal message follows the cancel.
                        await self._cancel(request)
                        break
                aside.add(event, num_tokens)
                if text:
                    yield Piece(text, num_tokens, *aside.take())
            elif isinstance(event, Failed):
                raise_failed(event)
            elif isinstance(event, Finished) or (
                isinstance(event, Cancelled) and scanner.is_stopped
            ):
                text = "" if scanner.is_stopped else scanner.push(detokenizer.flush())
                text += scanner.flush()
                reason = event.reason if isinstance(event, Finished) else "stop"
                reason = "stop" if scanner.is_stopped else reason
                clock.end(reason, request, num_tokens, event.report)
                self._tally.add(len(request.prompt), num_tokens, event.report)
                yield Piece(text, num_tokens, *aside.take(), reason, event.report)
            else:
                raise UnavailableError("the request was cancelled by the server")

    async def _cancel(self, request: Request) -> None:
        """Tells every verifier: any of them may hold the request, or take it over."""
        verifiers = self._registry.live("verifier", self._text.manifest.name)
        await self._bus.send([v.inbox for v in verifiers], Cancel(request.request_id))


class Aside:
    """What is told of tokens until the text that they are part of is certain."""

    def __init__(self, text: TextModel) -> None:
        self._text = text
        self._tracer = Tracer(text)
        self._told: list[Told] = []
        self._rounds: list[Json] = []

    def add(self, arrival: Arrival, num_tokens: int) -> None:
        """Of an arrival's tokens, those among the first `num_tokens` of the text."""
        kept = arrival.tokens[: max(0, num_tokens - arrival.offset)]
        self._told += [
            Told(token, said)
            for token, said in zip(kept, arrival.logprobs, strict=False)
            if not self._text.is_marker(token)
        ]
        for round in arrival.rounds:
            start = round.offset - arrival.offset
            tokens = arrival.tokens[start : start + round.num_emitted]
            self._rounds.append(self._tracer.write(round, tokens))

    def take(self) -> tuple[list[Told], list[Json]]:
        told, rounds = self._told, self._rounds
        self._told, self._rounds = [], []
        return told, rounds


class Clock:
    """Measures one choice, and logs and counts its end."""

    def __init__(self, model: str, waiter: Waiter) -> None:
        self._model = model
        self._waiter = waiter
        self._started = time.perf_counter()
        self._first: float | None = None
        self._last = self._started

    def tick(self, num_tokens: int) -> None:
        """Tokens have come."""
        now = time.perf_counter()
        if self._first is None:
            self._first = now
            metrics.TIME_TO_FIRST_TOKEN.labels(self._model).observe(now - self._started)
        else:
            gap = (now - self._last) / num_tokens
            for _ in range(num_tokens):
                metrics.INTER_TOKEN_LATENCY.labels(self._model).observe(gap)
        self._last = now

    def end(
        self,
        reason: str,
        request: GenerateRequest,
        num_tokens: int,
        report: GenerationReport | None,
    ) -> None:
        """The choice is finished."""
        model, num_prompt, now = self._model, len(request.prompt), time.perf_counter()
        self._time(now, num_tokens)
        metrics.SUCCESSES.labels(model, reason).inc()
        metrics.PROMPT_TOKENS.labels(model).inc(num_prompt)
        metrics.GENERATION_TOKENS.labels(model).inc(num_tokens)
        metrics.REQUEST_PROMPT_TOKENS.labels(model).observe(num_prompt)
        metrics.REQUEST_GENERATION_TOKENS.labels(model).observe(num_tokens)
        metrics.PARAMS_MAX_TOKENS.labels(model).observe(request.max_tokens)
        rounds = report.per_round if report is not None else []
        drafts = [(drafted, accepted) for drafted, accepted in rounds if drafted > 0]
        metrics.DRAFTS.labels(model).inc(len(drafts))
        metrics.DRAFT_TOKENS.labels(model).inc(sum(drafted for drafted, _ in drafts))
        metrics.ACCEPTED_TOKENS.labels(model).inc(sum(accepted for _, accepted in drafts))
        for _, accepted in drafts:
            for position in range(accepted):
                metrics.ACCEPTED_TOKENS_PER_POSITION.labels(model, str(position)).inc()
        logger.info(
            "%s: %d prompt and %d completion tokens, %d rounds, first token after %.3f s, "
            "%.3f s in all",
            reason,
            num_prompt,
            num_tokens,
            len(rounds),
            (self._first or now) - self._started,
            now - self._started,
        )

    def _time(self, now: float, num_tokens: int) -> None:
        """Where its time went."""
        model = self._model
        first = now if self._first is None else self._first
        begun = first if self._waiter.begun is None else self._waiter.begun
        metrics.END_TO_END.labels(model).observe(now - self._started)
        metrics.QUEUE_TIME.labels(model).observe(begun - self._started)
        metrics.PREFILL_TIME.labels(model).observe(first - begun)
        metrics.DECODE_TIME.labels(model).observe(now - first)
        metrics.INFERENCE_TIME.labels(model).observe(now - begun)
        if num_tokens > 1:
            per_token = (now - first) / (num_tokens - 1)
            metrics.TIME_PER_OUTPUT_TOKEN.labels(model).observe(per_token)
