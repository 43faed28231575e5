"""The routes of generation: check, admit, generate, answer. Errors are shaped in errors.py."""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace

from aiohttp import web

from services.gateway import responses
from services.gateway.admission import Admission
from services.gateway.config import GatewayConfig
from services.gateway.doorkeeper import METER
from services.gateway.errors import body_of
from services.gateway.events import EventStream
from services.gateway.generation import Generator, Piece, Wanted
from services.gateway.responses import Json, Shape
from services.gateway.schemas import ChatBody, CompletionBody, GenerationBody, parse
from services.gateway.text import TextModel
from services.gateway.timeouts import timeout_of
from shared.errors import InvalidRequestError, QuorumError
from shared.messages import GenerationReport

DEFAULT_COMPLETION_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a text is to go on from."""

    tokens: list[int]
    echo: str = ""
    """What leads the text that is answered: nothing, or the prompt."""


@dataclass(slots=True)
class Choice:
    """One completion in the making."""

    index: int
    wanted: Wanted
    echo: str = ""
    text: str = ""
    num_tokens: int = 0
    reason: str | None = None
    report: GenerationReport | None = None
    is_begun: bool = field(default=False)

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.num_tokens = piece.num_tokens
        self.reason = piece.reason
        self.report = piece.report


class GenerationRoutes:
    """Completions and chats."""

    def __init__(
        self,
        config: GatewayConfig,
        text: TextModel,
        generator: Generator,
        admission: Admission,
    ) -> None:
        self._config = config
        self._text = text
        self._generator = generator
        self._admission = admission

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/v1/completions", self.completions)
        app.router.add_post("/v1/chat/completions", self.chat_completions)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = parse(CompletionBody, await request.read())
        prompts = [self._prompt(given, body.echo) for given in body.prompts]
        limit = body.max_tokens or DEFAULT_COMPLETION_TOKENS
        return await self._answer(request, body, "completion", prompts, limit)

    async def chat_completions(self, request: web.Request) -> web.StreamResponse:
        body = parse(ChatBody, await request.read())
        messages = [{"role": m.role, "content": m.text} for m in body.messages]
        prompt = Prompt(self._text.encode_chat(messages))
        room = self._text.manifest.max_context - len(prompt.tokens)
        given = body.max_completion_tokens or body.max_tokens
        limit = given or max(1, min(room, self._config.max_completion_tokens))
        return await self._answer(request, body, "chat", [prompt], limit)

    def _prompt(self, given: str | list[int], is_echoed: bool) -> Prompt:
        if isinstance(given, str):
            return Prompt(self._text.encode(given), given if is_echoed else "")
        self._text.require_tokens(given, "prompt")
        return Prompt(given, self._text.decode(given, with_markers=True) if is_echoed else "")

    async def _answer(
        self,
        request: web.Request,
        body: GenerationBody,
        kind: str,
        prompts: Sequence[Prompt],
        max_tokens: int,
    ) -> web.StreamResponse:
        wanted_s = timeout_of(request, body.timeout) or self._config.request_timeout_s
        timeout_s = min(wanted_s, self._config.request_timeout_s)
        choices = self._choices(body, prompts, max_tokens, timeout_s)
        prefix = "chatcmpl" if kind == "chat" else "cmpl"
        shape = Shape(
            kind, f"{prefix}-{uuid.uuid4().hex}", int(time.time()), self._text.manifest.name
        )
        with self._admission.enter(len(choices)), _metered(request, prompts, choices):
            async with aclosing(self._run(choices)) as pieces:
                if body.stream:
                    return await self._stream(request, body, shape, prompts, choices, pieces)
                async for _ in pieces:
                    pass
        done = [shape.choice(c.index, c.echo + c.text, c.reason) for c in choices]
        total = _usage(prompts, choices)
        return web.json_response({**shape.whole(done, total), **_metrics(body, choices)})

    def _choices(
        self, body: GenerationBody, prompts: Sequence[Prompt], max_tokens: int, timeout_s: float
    ) -> list[Choice]:
        """One choice for each prompt and each of its `n`; raises for what cannot be served."""
        manifest = self._text.manifest
        self._text.require_model(body.model)
        if len(prompts) * body.n > self._config.max_choices:
            raise InvalidRequestError(
                f"{len(prompts)} prompts with n={body.n} make {len(prompts) * body.n} choices; "
                f"at most {self._config.max_choices} are served at a time",
                "n",
            )
        for prompt in prompts:
            if len(prompt.tokens) + max_tokens > manifest.max_context:
                raise InvalidRequestError(
                    f"the prompt has {len(prompt.tokens)} tokens and {max_tokens} more are wanted; "
                    f"the model's context is {manifest.max_context} tokens",
                    "messages" if isinstance(body, ChatBody) else "prompt",
                )
        # Absent seeds are drawn here, so that a published request is reproducible.
        seed = body.seed if body.seed is not None else secrets.randbits(63)
        eos = [] if body.ignore_eos else manifest.eos_token_ids
        base = Wanted(
            [],
            max_tokens,
            body.sampling(seed, manifest.vocab_size),
            [*eos, *body.stop_token_ids],
            body.stops,
            timeout_s,
        )
        choices: list[Choice] = []
        for prompt in prompts:
            for number in range(body.n):
                sampling = replace(base.sampling, seed=_offset(seed, number))
                wanted = replace(base, prompt=prompt.tokens, sampling=sampling)
                choices.append(Choice(len(choices), wanted, prompt.echo))
        return choices

    async def _run(self, choices: Sequence[Choice]) -> AsyncGenerator[tuple[Choice, Piece], None]:
        """All choices at once, their pieces as they come."""
        arrivals: asyncio.Queue[tuple[Choice, Piece] | None] = asyncio.Queue()

        async def follow(choice: Choice) -> None:
            async with aclosing(self._generator.generate(choice.wanted)) as pieces:
                async for piece in pieces:
                    choice.add(piece)
                    arrivals.put_nowait((choice, piece))

        tasks = [asyncio.create_task(follow(choice)) for choice in choices]
        everything = asyncio.gather(*tasks)
        everything.add_done_callback(lambda _: arrivals.put_nowait(None))
        try:
            while (arrival := await arrivals.get()) is not None:
                yield arrival
            await everything
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, everything, return_exceptions=True)

    async def _stream(
        self,
        request: web.Request,
        body: GenerationBody,
        shape: Shape,
        prompts: Sequence[Prompt],
        choices: Sequence[Choice],
        pieces: AsyncIterator[tuple[Choice, Piece]],
    ) -> web.StreamResponse:
        """Chunks as the pieces come, then the usage and the report if they were asked for."""
        events = EventStream(request)
        try:
            async for choice, piece in events.relay(pieces, self._config.ping_s):
                await events.send(shape.chunk([_delta(shape, choice, piece)]))
        except QuorumError as error:
            if not events.is_begun:
                raise
            await events.send(body_of(error)[0])
            return await events.end()
        wants_usage = body.stream_options is not None and body.stream_options.include_usage
        if wants_usage or body.return_speculation:
            last = shape.chunk([], _usage(prompts, choices) if wants_usage else None)
            await events.send({**last, **_metrics(body, choices)})
        return await events.end()


@contextmanager
def _metered(
    request: web.Request, prompts: Sequence[Prompt], choices: Sequence[Choice]
) -> Iterator[None]:
    """Takes all tokens that may come from the key's share, and gives back what did not."""
    meter = request.get(METER)
    if meter is None:
        yield
        return
    most = sum(choice.wanted.max_tokens for choice in choices)
    meter.take_tokens(sum(len(prompt.tokens) for prompt in prompts) + most)
    try:
        yield
    finally:
        meter.give_back_tokens(most - sum(choice.num_tokens for choice in choices))


def _usage(prompts: Sequence[Prompt], choices: Sequence[Choice]) -> Json:
    """Each prompt counts once, however many choices it has, as what the first of them met."""
    firsts = choices[:: len(choices) // len(prompts)]
    num_reused = sum(choice.report.num_reused_tokens for choice in firsts if choice.report)
    num_prompt = sum(len(prompt.tokens) for prompt in prompts)
    num_completion = sum(choice.num_tokens for choice in choices)
    return responses.usage(num_prompt, num_completion, num_reused)


def _delta(shape: Shape, choice: Choice, piece: Piece) -> Json:
    is_first = not choice.is_begun
    choice.is_begun = True
    text = choice.echo + piece.text if is_first else piece.text
    return shape.delta(choice.index, text, piece.reason, is_first)


def _metrics(body: GenerationBody, choices: Sequence[Choice]) -> Json:
    """The speculation of the only choice; null for several, as in vLLM."""
    if not body.return_speculation:
        return {}
    report = choices[0].report if len(choices) == 1 else None
    detail = None if report is None else responses.speculation(report)
    seed = choices[0].wanted.sampling.seed
    return {"metrics": {"speculative_decoding": detail, "seed": seed}}


def _offset(seed: int, number: int) -> int:
    """The seed of the n-th choice, within 64 bits."""
    return (seed + number + (1 << 63)) % (1 << 64) - (1 << 63)
