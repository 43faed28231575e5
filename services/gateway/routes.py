"""The routes of generation: check, admit, generate, answer. Errors are shaped in errors.py."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from aiohttp import web

from services.gateway import metrics
from services.gateway.admission import Admission
from services.gateway.cancellation import Ending, Running
from services.gateway.chats import Toolset, chat_tokens
from services.gateway.choices import Choice, Choices, News, Prompt
from services.gateway.config import GatewayConfig
from services.gateway.errors import body_of
from services.gateway.events import EventStream
from services.gateway.generation import Generator
from services.gateway.responses import Shape
from services.gateway.schemas import ChatBody, CompletionBody, GenerationBody, parse
from services.gateway.targets import Targets
from services.gateway.text import TextModel
from services.gateway.timeouts import timeout_of
from services.gateway.traces import told
from shared.errors import InvalidRequestError, QuorumError
from shared.generation import Steering
from shared.registry import Registry

DEFAULT_COMPLETION_TOKENS = 16
MAX_LAG = 1024
"""Pieces of a stream that a client has not taken, beyond what sockets hold."""


class SlowReaderError(QuorumError):
    code = "slow_reader"


class GenerationRoutes:
    """Completions and chats."""

    def __init__(
        self,
        config: GatewayConfig,
        targets: Targets,
        generator: Generator,
        admission: Admission,
        registry: Registry,
        running: Running,
    ) -> None:
        self._config = config
        self._targets = targets
        self._generator = generator
        self._admission = admission
        self._registry = registry
        self._running = running

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/v1/completions", self.completions)
        app.router.add_post("/v1/chat/completions", self.chat_completions)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = parse(CompletionBody, await request.read())
        text = self._targets.find(body.model)
        prompts = [_prompt(text, given, body.echo) for given in body.prompts]
        limit = DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
        return await self._answer(request, body, "completion", text, prompts, limit)

    async def chat_completions(self, request: web.Request) -> web.StreamResponse:
        body = parse(ChatBody, await request.read())
        text = self._targets.find(body.model)
        toolset = Toolset.of(body.tools, body.tool_choice, body.parallel_tool_calls)
        prompt = Prompt(chat_tokens(text, body.messages, toolset))
        room = text.manifest.max_context - len(prompt.tokens)
        given = body.max_completion_tokens or body.max_tokens
        limit = given or max(1, min(room, self._config.max_completion_tokens))
        return await self._answer(request, body, "chat", text, [prompt], limit, toolset)

    async def _answer(
        self,
        request: web.Request,
        body: GenerationBody,
        kind: str,
        text: TextModel,
        prompts: Sequence[Prompt],
        max_tokens: int,
        toolset: Toolset | None = None,
    ) -> web.StreamResponse:
        wanted_s = timeout_of(request, body.timeout) or self._config.request_timeout_s
        timeout_s = min(wanted_s, self._config.request_timeout_s)
        choices = Choices(body, prompts, max_tokens, timeout_s, text, self._config, toolset)
        self._require_drafters(text, choices.all[0].wanted.steering)
        prefix = "chatcmpl" if kind == "chat" else "cmpl"
        shape = Shape(
            kind,
            f"{prefix}-{uuid.uuid4().hex}",
            int(time.time()),
            text.manifest.name,
            body.served_tier,
        )
        with (
            told(choices, shape),
            self._admission.enter(len(choices.all), is_batch=body.is_batch),
            choices.metered(request),
            self._running.entered(request, len(choices.all)) as ending,
        ):
            async with aclosing(self._run(choices, ending, body.stream)) as arrivals:
                if body.stream:
                    return await self._stream(request, shape, choices, arrivals)
                async for _ in arrivals:
                    pass
        return web.json_response(choices.whole(shape))

    def _require_drafters(self, text: TextModel, steering: Steering) -> None:
        """Raises InvalidRequestError for a draft model that the target does not have."""
        drafters = self._registry.drafters(text.manifest.name, text.vocabulary)
        live = {instance.name for instance in drafters}
        for name in steering.drafters or ():
            if name not in live:
                there = ", ".join(sorted(live)) or "none"
                raise InvalidRequestError(
                    f"speculation: no drafter {name!r} is live; there is {there}", "speculation"
                )

    async def _run(
        self, choices: Choices, ending: Ending, is_read: bool
    ) -> AsyncGenerator[News, None]:
        """All choices at once, their pieces as they come, until they are told to end. Where they
        are read by a client, it may not fall behind by more than `MAX_LAG` pieces."""
        arrivals: asyncio.Queue[News | QuorumError | None] = asyncio.Queue()

        async def follow(choice: Choice) -> None:
            async with aclosing(self._generator.generate(choices.text, choice.wanted)) as pieces:
                async for piece in pieces:
                    arrivals.put_nowait(choice.add(piece))
                    if is_read and arrivals.qsize() > MAX_LAG and not ending.done():
                        metrics.CANCELLATIONS.labels("lag").inc(len(choices.all))
                        ending.set_result(SlowReaderError(f"read {MAX_LAG} pieces late"))

        def end(asked: Ending) -> None:
            for task in tasks:
                task.cancel()
            arrivals.put_nowait(asked.result())

        tasks = [asyncio.create_task(follow(choice)) for choice in choices.all]
        ending.add_done_callback(end)
        everything = asyncio.gather(*tasks)
        everything.add_done_callback(lambda _: arrivals.put_nowait(None))
        try:
            while (arrival := await arrivals.get()) is not None:
                if isinstance(arrival, QuorumError):
                    raise arrival
                yield arrival
            await everything
            longest = max(choice.num_tokens for choice in choices.all)
            metrics.MAX_GENERATION_TOKENS.labels(choices.text.manifest.name).observe(longest)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, everything, return_exceptions=True)

    async def _stream(
        self,
        request: web.Request,
        shape: Shape,
        choices: Choices,
        arrivals: AsyncIterator[News],
    ) -> web.StreamResponse:
        """Chunks as the text comes, then the usage and the report if they were asked for."""
        events = EventStream(request)
        try:
            async with events.pinged(self._config.ping_s):
                async for news in arrivals:
                    if news.is_worth_telling:
                        await events.send(choices.chunk(shape, news))
        except QuorumError as error:
            if not events.is_begun:
                raise
            await events.send(body_of(error)[0])
            return await events.end()
        body = choices.body
        wants_usage = body.stream_options is not None and body.stream_options.include_usage
        if wants_usage or body.return_speculation:
            last = shape.chunk([], choices.usage() if wants_usage else None)
            await events.send({**last, **choices.metrics()})
        return await events.end()


def _prompt(text: TextModel, given: str | list[int], is_echoed: bool) -> Prompt:
    if isinstance(given, str):
        return Prompt(text.encode(given), given if is_echoed else "")
    text.require_tokens(given, "prompt")
    return Prompt(given, text.decode(given, with_markers=True) if is_echoed else "")
