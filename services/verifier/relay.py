"""Tokens, and what is told of a prompt, on their way to the gateway while the next round is under
way.

Nobody waits for a message: what is emitted while one is being sent goes into the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from shared.bus.base import Bus
from shared.generation import Logprobs, RoundTrace
from shared.messages import GenerateRequest, PromptLogprobs, Tokens

MAX_TOLD = 1024
"""Of a prompt's tokens in a message: some 0.4 MB, were 20 others told with each."""


@dataclass(frozen=True, slots=True)
class Emitted:
    """Tokens, and what is told of them where it is asked for."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[Logprobs] = field(default_factory=list)
    rounds: list[RoundTrace] = field(default_factory=list)
    prompt: list[Logprobs] = field(default_factory=list)
    """Of the prompt's next tokens."""

    def __add__(self, other: Emitted) -> Emitted:
        return Emitted(
            self.tokens + other.tokens,
            self.logprobs + other.logprobs,
            self.rounds + other.rounds,
            self.prompt + other.prompt,
        )


class Relay:
    """The tokens of one request, in order."""

    def __init__(self, bus: Bus, request: GenerateRequest, sender: str) -> None:
        self._bus = bus
        self._request = request
        self._sender = sender
        self._offset = 0
        self._prompt_offset = 1
        """Nothing can be told of the first one."""
        self._unsent: Emitted | None = None
        """None if there is nothing to say."""
        self._sending: asyncio.Task[None] | None = None

    def pass_on(self, emitted: Emitted) -> None:
        """Sends tokens after those before; none only shows that the request is being worked on.
        Raises BusError if an earlier message could not be sent."""
        self._unsent = emitted if self._unsent is None else self._unsent + emitted
        if self._sending is None or self._sending.done():
            if self._sending is not None:
                self._sending.result()
            self._sending = asyncio.create_task(self._send_all())

    async def finish(self) -> None:
        """Returns when all is sent. Raises BusError."""
        if self._sending is not None:
            await self._sending

    async def stop(self) -> None:
        """Gives up what is under way. A failure that nobody waits for any more is passed over."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)

    async def _send_all(self) -> None:
        while self._unsent is not None:
            emitted, self._unsent = self._unsent, None
            await self._send_prompt(emitted.prompt)
            if emitted.tokens or not emitted.prompt:
                await self._send_tokens(emitted)

    async def _send_tokens(self, emitted: Emitted) -> None:
        message = Tokens(
            self._request.request_id,
            self._sender,
            self._offset,
            emitted.tokens,
            emitted.logprobs,
            emitted.rounds,
        )
        self._offset += len(emitted.tokens)
        await self._bus.send([self._request.reply_to], message)

    async def _send_prompt(self, told: list[Logprobs]) -> None:
        for start in range(0, len(told), MAX_TOLD):
            part = told[start : start + MAX_TOLD]
            message = PromptLogprobs(
                self._request.request_id, self._sender, self._prompt_offset, part
            )
            self._prompt_offset += len(part)
            await self._bus.send([self._request.reply_to], message)


@asynccontextmanager
async def relay(bus: Bus, request: GenerateRequest, sender: str) -> AsyncIterator[Relay]:
    """A relay for the time of the body, at whose end all is sent unless it failed."""
    opened = Relay(bus, request, sender)
    try:
        yield opened
        await opened.finish()
    finally:
        await opened.stop()
