"""Requests that wait for their answers: what comes back is put in order and handed to the waiter.

Tokens carry offsets: what a taken-over request repeats is dropped, and a gap (a reply that a
failing bus lost) makes the gateway publish the request again, which is safe since its tokens are
reproducible. Each request has exactly one end here, whatever arrives.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from services.gateway import metrics
from shared.bus.base import Bus
from shared.generation import Logprobs, RoundTrace
from shared.messages import (
    Cancel,
    Cancelled,
    Failed,
    Finished,
    GenerateRequest,
    PromptLogprobs,
    RecommendRequest,
    Scores,
    Tokens,
)
from shared.tensor_messages import Outputs, ScoreRequest, WriteRows, Written
from shared.topics import Topic

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Arrival:
    """New tokens from the output's `offset` on, none as a sign of life, and what is told of them;
    or, of the whole prompt, what is told of that."""

    offset: int
    tokens: list[int]
    logprobs: list[Logprobs] = field(default_factory=list)
    rounds: list[RoundTrace] = field(default_factory=list)
    prompt: list[Logprobs] = field(default_factory=list)


Request = GenerateRequest | RecommendRequest | ScoreRequest | WriteRows
Part = Tokens | PromptLogprobs
Terminal = Finished | Failed | Cancelled | Scores | Outputs | Written
MAX_REPUBLISHED = 5
GAP_PATIENCE_S = 1.0


class Waiter:
    """One request in flight."""

    def __init__(self, request: Request, topic: Topic[Any]) -> None:
        self.request = request
        self.topic = topic
        """Where it was published."""
        self.owner: str | None = None
        """The inbox of who last sent tokens."""
        self.begun: float | None = None
        """When word first came that somebody works on it, by `time.perf_counter`."""
        self.has_gap = False
        self._is_over = False
        self._num_tokens = 0
        self._prompt: list[Logprobs] = []
        self._num_untold = 0
        """Of the prompt's tokens, those of which something has yet to come before others do."""
        if isinstance(request, GenerateRequest) and request.num_prompt_logprobs is not None:
            self._num_untold = len(request.prompt) - 1
        self._arrivals: asyncio.Queue[Arrival | Terminal] = asyncio.Queue()

    def take(self, message: Part | Terminal) -> None:
        """Queues what is new in a message."""
        if isinstance(message, Tokens | PromptLogprobs):
            self.owner = message.sender
            if self.begun is None:
                self.begun = time.perf_counter()
            if isinstance(message, Tokens):
                self._take_tokens(message)
            else:
                self._take_prompt(message)
            return
        if isinstance(message, Finished) and self._is_missing_any(message):
            self.has_gap = True
            return
        if self._is_over:
            _count_unclaimed(message)
        self._is_over = True
        self._arrivals.put_nowait(message)

    def _is_missing_any(self, end: Finished) -> bool:
        return end.num_tokens > self._num_tokens or self._num_untold > 0

    def _take_tokens(self, message: Tokens) -> None:
        if message.offset > self._num_tokens or (message.tokens and self._num_untold):
            self.has_gap = True
            return
        num_known = self._num_tokens - message.offset
        new = Arrival(
            self._num_tokens,
            message.tokens[num_known:],
            message.logprobs[num_known:],
            [round for round in message.rounds if round.offset >= self._num_tokens],
        )
        self._num_tokens += len(new.tokens)
        self._arrivals.put_nowait(new)

    def _take_prompt(self, message: PromptLogprobs) -> None:
        """What is told of a prompt is handed on at once, when all of it is there."""
        num_known = len(self._prompt) + 1 - message.offset
        if num_known < 0:
            self.has_gap = True
            return
        new = message.logprobs[num_known:]
        self._prompt += new
        self._num_untold -= len(new)
        is_whole = bool(new) and not self._num_untold
        self._arrivals.put_nowait(Arrival(0, [], prompt=self._prompt if is_whole else []))

    async def next(self) -> Arrival | Terminal:
        """New tokens, or the terminal message."""
        return await self._arrivals.get()


class Replies:
    """All waiters of one gateway, fed from its inbox."""

    def __init__(self, bus: Bus, silence_s: float) -> None:
        self._bus = bus
        self._silence_s = silence_s
        self._waiters: dict[str, Waiter] = {}

    def num_waiting(self, *topics: Topic[Any]) -> int:
        """Requests of these topics that nobody has begun, as far as is known here."""
        return sum(w.begun is None and w.topic in topics for w in self._waiters.values())

    @contextmanager
    def waiting(self, request: Request, topic: Topic[Any]) -> Iterator[Waiter]:
        """Registers a request for the time of the body."""
        waiter = self._waiters[request.request_id] = Waiter(request, topic)
        try:
            yield waiter
        finally:
            del self._waiters[request.request_id]

    async def receive(self, message: object) -> None:
        """Hands an inbox message to its waiter; whoever works for nobody is told to stop."""
        if not isinstance(message, Part | Terminal):
            logger.warning("unexpected %s in the inbox", type(message).__name__)
            return
        waiter = self._waiters.get(message.request_id)
        if waiter is not None:
            waiter.take(message)
        elif isinstance(message, Part):
            await self._bus.send([message.sender], Cancel(message.request_id))
        else:
            _count_unclaimed(message)

    async def events(
        self, waiter: Waiter, timeout_s: float
    ) -> AsyncGenerator[Arrival | Terminal, None]:
        """All of a request's arrivals up to its terminal message. Publishes the request again
        when replies were lost, or when nothing is heard although nothing is queued. Raises
        TimeoutError when the request is not over within `timeout_s`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        num_republished = 0
        while True:
            patience_s = GAP_PATIENCE_S if waiter.has_gap else self._silence_s
            try:
                async with asyncio.timeout_at(min(deadline, loop.time() + patience_s)):
                    event = await waiter.next()
            except TimeoutError:
                if loop.time() >= deadline:
                    raise
                # Where requests of the topic wait, silence is no sign of loss.
                if num_republished < MAX_REPUBLISHED and not await self._bus.lag(waiter.topic):
                    num_republished += 1
                    await self._publish_again(waiter)
                continue
            if not isinstance(event, Arrival):
                yield event
                return
            if event.tokens or event.prompt:
                yield event

    async def end(self, waiter: Waiter, timeout_s: float) -> Terminal:
        """Of a request's arrivals, the terminal message."""
        # Closed here: a generator that is left to the garbage costs a task of its own.
        async with aclosing(self.events(waiter, timeout_s)) as events:
            async for event in events:
                if not isinstance(event, Arrival):
                    return event
        raise AssertionError("arrivals end with the terminal message")

    async def _publish_again(self, waiter: Waiter) -> None:
        waiter.has_gap = False
        metrics.REPUBLISHED.inc()
        logger.warning("published again: replies were lost, or nobody works on it")
        await self._bus.publish(waiter.topic, waiter.request)


def _count_unclaimed(message: Terminal) -> None:
    metrics.UNCLAIMED.labels(type(message).__name__).inc()
