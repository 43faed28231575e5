"""A whole system in the test's own process: services on a bus, and a client that speaks to them
as a gateway does. No gateway, so that tests see token ids."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from shared.bus import Bus, Instance
from shared.generation import Logprobs, RoundTrace, Sampling
from shared.lm.decoder import Decoder, Row
from shared.lm.sampling import Place, draw
from shared.messages import (
    Cancelled,
    Failed,
    Finished,
    GenerateRequest,
    PromptLogprobs,
    Tokens,
)
from shared.service import Service
from shared.topics import generate_requests

Terminal = Finished | Failed | Cancelled


@dataclass
class Answer:
    """What a client got for one request: its tokens, and every terminal message."""

    tokens: list[int]
    terminals: list[Terminal]
    ended: asyncio.Event
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    senders: list[str] = field(default_factory=list)
    """The verifiers that have worked on it, in order."""
    logprobs: list[Logprobs] = field(default_factory=list)
    prompt_logprobs: list[Logprobs] = field(default_factory=list)
    rounds: list[RoundTrace] = field(default_factory=list)

    def take(self, message: Tokens | PromptLogprobs | Terminal) -> None:
        if isinstance(message, PromptLogprobs):
            self._take_prompt(message)
            return
        if not isinstance(message, Tokens):
            self.terminals.append(message)
            self.ended.set()
            return
        if message.tokens:
            self.begun.set()
        if message.sender not in self.senders:
            self.senders.append(message.sender)
        # A taken-over request repeats its tokens: they must be the same, and leave no gap.
        assert message.offset <= len(self.tokens)
        known = self.tokens[message.offset : message.offset + len(message.tokens)]
        assert message.tokens[: len(known)] == known
        self.tokens[message.offset :] = (
            message.tokens + self.tokens[message.offset + len(message.tokens) :]
        )
        self.logprobs[message.offset :] = message.logprobs
        self.rounds = [r for r in self.rounds if r.offset < message.offset] + message.rounds

    def _take_prompt(self, message: PromptLogprobs) -> None:
        place = message.offset - 1
        assert 0 <= place <= len(self.prompt_logprobs)
        known = self.prompt_logprobs[place : place + len(message.logprobs)]
        assert message.logprobs[: len(known)] == known
        self.prompt_logprobs += message.logprobs[len(known) :]


class Client:
    """Publishes generate requests and collects what comes back."""

    def __init__(self, bus: Bus, model: str) -> None:
        self.bus = bus
        self.model = model
        self.inbox = f"gateway.test.{uuid.uuid4().hex}"
        self.answers: dict[str, Answer] = {}
        self.endings: asyncio.Queue[str] = asyncio.Queue()
        """Request ids, as they end for the first time."""

    async def submit(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        sampling: Sampling,
        stop_tokens: Sequence[int] = (),
        timeout_s: float = 100,
        **options: object,
    ) -> tuple[str, Answer]:
        """`options` are fields of the request."""
        request_id = uuid.uuid4().hex
        answer = self.answers[request_id] = Answer([], [], asyncio.Event())
        request = GenerateRequest(
            request_id,
            self.inbox,
            list(prompt),
            max_tokens,
            sampling,
            list(stop_tokens),
            time.time() + timeout_s,
            **options,
        )
        await self.bus.publish(generate_requests(self.model), request)
        return request_id, answer

    async def generate(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        sampling: Sampling,
        stop_tokens: Sequence[int] = (),
        **options: object,
    ) -> tuple[list[int], Finished]:
        """The tokens of a request that must finish, and its one terminal message."""
        _, answer = await self.submit(prompt, max_tokens, sampling, stop_tokens, **options)
        return await self.ending(answer)

    async def ending(self, answer: Answer) -> tuple[list[int], Finished]:
        """Of an answer that must finish: its tokens, and its one terminal message."""
        await asyncio.wait_for(answer.ended.wait(), 100)
        (terminal,) = answer.terminals
        assert isinstance(terminal, Finished), terminal
        assert terminal.num_tokens == len(answer.tokens)
        return answer.tokens, terminal

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Client]:
        async with self.bus.receive(self.inbox) as messages:
            reading = asyncio.create_task(self._read(messages))
            renewing = asyncio.create_task(self._renew())
            try:
                yield self
            finally:
                for task in (reading, renewing):
                    task.cancel()
                await asyncio.gather(reading, renewing, return_exceptions=True)

    async def _renew(self) -> None:
        """Stays in the registry as a gateway does, so that its requests are no orphans."""
        instance = Instance(self.inbox, "gateway", "test", self.inbox, {})
        while True:
            await self.bus.announce([instance], 3.0)
            await asyncio.sleep(1.0)

    async def _read(self, messages: AsyncIterator[object]) -> None:
        async for message in messages:
            assert isinstance(message, Tokens | PromptLogprobs | Finished | Failed | Cancelled)
            answer = self.answers[message.request_id]
            if isinstance(message, Terminal) and not answer.ended.is_set():
                self.endings.put_nowait(message.request_id)
            answer.take(message)


@asynccontextmanager
async def running(*services: Service) -> AsyncIterator[None]:
    """Runs the services until the body ends; a service that fails fails the test."""
    async with AsyncExitStack() as stack:
        tasks = [asyncio.create_task(service.run()) for service in services]
        stack.push_async_callback(_stop, tasks)
        all_ready = asyncio.gather(*(service.ready.wait() for service in services))
        await asyncio.wait([all_ready, *tasks], return_when=asyncio.FIRST_COMPLETED)
        if not all_ready.done():
            all_ready.cancel()
            return
        yield


async def _stop(tasks: Sequence[asyncio.Task[None]]) -> None:
    early = [task for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in early:
        task.result()


def decode_plainly(
    decoder: Decoder, prompt: Sequence[int], max_tokens: int, sampling: Sampling
) -> list[int]:
    """The target's own text: one token a pass, one request alone, no draft. The reference."""
    tokens = list(prompt)
    num_cached = 0
    while len(tokens) < len(prompt) + max_tokens:
        (logits,) = decoder.forward([Row(0, num_cached, tokens[num_cached:], 1)])
        num_cached = len(tokens)
        tokens += draw(logits[-1:], [Place(sampling, tokens, len(tokens), len(prompt))]).tolist()
    return tokens[len(prompt) :]
