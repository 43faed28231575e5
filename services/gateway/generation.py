"""One completion from admission to its end: tokens in, text out, stop strings, the clock.

A choice is one straight asynchronous generator; routes only shape what it yields.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from services.gateway import metrics
from services.gateway.clock import Clock
from services.gateway.details import Told, Tracer
from services.gateway.replies import Arrival, Replies, Request, Terminal
from services.gateway.responses import Json
from services.gateway.stops import StopScanner
from services.gateway.tally import Tally
from services.gateway.text import Detokenizer, TextModel
from services.gateway.tools.readers import Reader
from shared.bus.base import Bus
from shared.errors import InvalidRequestError, QuorumError, UnavailableError
from shared.generation import Grammar, Logprobs, Sampling, Steering
from shared.log import request_scope
from shared.messages import Cancel, Cancelled, Failed, Finished, GenerateRequest, GenerationReport
from shared.registry import Registry
from shared.topics import batch_generate_requests, generate_requests

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
    num_prompt_logprobs: int | None = None
    tells_markers: bool = False
    """Whether log probabilities are told of tokens that are no part of the text as well."""
    only_call: Callable[[], Reader] | None = None
    """Makes a reader that finds the call behind which nothing is wanted, if there is such."""


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
    prompt: list[Logprobs] = field(default_factory=list)
    """Of all of the prompt's tokens but the first; they come before any text."""


class Generator:
    """Turns wanted choices into pieces of text."""

    def __init__(
        self,
        bus: Bus,
        registry: Registry,
        inbox: str,
        replies: Replies,
        tally: Tally,
    ) -> None:
        self._bus = bus
        self._registry = registry
        self._inbox = inbox
        self._replies = replies
        self._tally = tally

    async def generate(self, text: TextModel, wanted: Wanted) -> AsyncGenerator[Piece, None]:
        """What the target says, in pieces up to one with a reason. Raises QuorumErrors; whoever
        stops listening early cancels the request everywhere."""
        model = text.manifest.name
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
            wanted.num_prompt_logprobs,
        )
        topic = (batch_generate_requests if wanted.is_batch else generate_requests)(model)
        is_over = False
        with request_scope(request.request_id), self._replies.waiting(request, topic) as waiter:
            clock = Clock(model, waiter)
            try:
                await self._bus.publish(topic, request)
                events = self._replies.events(waiter, wanted.timeout_s + GRACE_S)
                async for piece in self._pieces(request, text, wanted, events, clock):
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
                    await self._cancel(model, request)

    async def _pieces(
        self,
        request: GenerateRequest,
        model: TextModel,
        wanted: Wanted,
        events: AsyncIterator[Arrival | Terminal],
        clock: Clock,
    ) -> AsyncIterator[Piece]:
        writer = Writer(model, wanted)
        aside = Aside(model, wanted.tells_markers)
        async for event in events:
            if isinstance(event, Arrival):
                clock.tick(len(event.tokens))
                was_over = writer.is_over
                text = writer.take(event.tokens)
                if writer.is_over and not was_over:
                    # The verifier knows no text; its terminal message follows the cancel.
                    await self._cancel(model.manifest.name, request)
                aside.add(event, writer.num_tokens)
                if text or event.prompt:
                    yield Piece(text, writer.num_tokens, *aside.take(), prompt=event.prompt)
            elif isinstance(event, Failed):
                raise_failed(event)
            elif isinstance(event, Finished) or (isinstance(event, Cancelled) and writer.is_over):
                text, num_tokens = writer.flush(), writer.num_tokens
                reason = event.reason if isinstance(event, Finished) else "stop"
                reason = "stop" if writer.is_over else reason
                clock.end(reason, request, num_tokens, event.report)
                self._tally.add(len(request.prompt), num_tokens, event.report)
                yield Piece(text, num_tokens, *aside.take(), reason, event.report)
            else:
                raise UnavailableError("the request was cancelled by the server")

    async def _cancel(self, model: str, request: Request) -> None:
        """Tells every verifier: any of them may hold the request, or take it over."""
        verifiers = self._registry.live("verifier", model)
        await self._bus.send([v.inbox for v in verifiers], Cancel(request.request_id))


class Writer:
    """A choice's tokens as text, up to where that ends: at a stop string, or behind the only call
    that is wanted."""

    def __init__(self, text: TextModel, wanted: Wanted) -> None:
        self.num_tokens = 0
        self._min_tokens = wanted.min_tokens
        self._detokenizer = Detokenizer(text, wanted.kept_markers)
        self._scanner = StopScanner(wanted.stops)
        self._reader = None if wanted.only_call is None else wanted.only_call()

    @property
    def is_over(self) -> bool:
        """Whatever follows is no part of it."""
        is_called = self._reader is not None and self._reader.is_complete
        return self._scanner.is_stopped or (is_called and self.num_tokens >= self._min_tokens)

    def take(self, tokens: Sequence[int]) -> str:
        """The text that has become certain."""
        text = ""
        for token in tokens:
            if self.is_over:
                break
            self.num_tokens += 1
            new = self._detokenizer.push(token)
            # What the request does not want to stop yet cannot be a stop.
            if self.num_tokens > self._min_tokens:
                new = self._scanner.push(new)
            if self._reader is not None:
                self._reader.push(new)
            text += new
        return text

    def flush(self) -> str:
        """What was held back, now that nothing follows."""
        rest = "" if self.is_over else self._scanner.push(self._detokenizer.flush())
        return rest + self._scanner.flush()


class Aside:
    """What is told of tokens until the text that they are part of is certain."""

    def __init__(self, text: TextModel, tells_markers: bool) -> None:
        self._text = text
        self._tells_markers = tells_markers
        self._tracer = Tracer(text)
        self._told: list[Told] = []
        self._rounds: list[Json] = []

    def add(self, arrival: Arrival, num_tokens: int) -> None:
        """Of an arrival's tokens, those among the first `num_tokens` of the text."""
        kept = arrival.tokens[: max(0, num_tokens - arrival.offset)]
        self._told += [
            Told(token, said)
            for token, said in zip(kept, arrival.logprobs, strict=False)
            if self._tells_markers or not self._text.is_marker(token)
        ]
        for round in arrival.rounds:
            start = round.offset - arrival.offset
            tokens = arrival.tokens[start : start + round.num_emitted]
            self._rounds.append(self._tracer.write(round, tokens))

    def take(self) -> tuple[list[Told], list[Json]]:
        told, rounds = self._told, self._rounds
        self._told, self._rounds = [], []
        return told, rounds
