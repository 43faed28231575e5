"""The choices of one answer: what each asks for, what it has become, and how that is told."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from aiohttp import web

from services.gateway import responses
from services.gateway.asked import num_echoed, num_logprobs, num_of_prompt
from services.gateway.chats import Toolset
from services.gateway.checks import check
from services.gateway.config import GatewayConfig
from services.gateway.details import (
    PromptTold,
    Told,
    chat_logprobs,
    completion_logprobs,
    num_chars,
    prompt_logprobs,
)
from services.gateway.doorkeeper import METER
from services.gateway.generation import Piece, Wanted
from services.gateway.options import only_grammar
from services.gateway.responses import Json, Shape
from services.gateway.schemas import ChatBody, GenerationBody
from services.gateway.text import TextModel
from services.gateway.tools.deltas import CallArguments, CallStart, Content, Delta
from services.gateway.tools.readers import Reader
from shared import wire
from shared.errors import InvalidRequestError
from shared.generation import Grammar, Logprobs, Steering
from shared.messages import GenerationReport


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a text is to go on from."""

    tokens: list[int]
    echo: str = ""
    """What leads the text that is answered: nothing, or the prompt."""


@dataclass(slots=True)
class Call:
    """A function that the model calls; `arguments` are the JSON text of an object."""

    id: str
    name: str
    arguments: str = ""

    def whole(self) -> Json:
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(slots=True)
class Choice:
    """One completion in the making."""

    index: int
    wanted: Wanted
    echo: str = ""
    text: str = ""
    num_tokens: int = 0
    told: list[Told] = field(default_factory=list)
    prompt_told: list[Logprobs] = field(default_factory=list)
    """Of each of the prompt's tokens but the first, if that is asked for."""
    rounds: list[Json] = field(default_factory=list)
    reason: str | None = None
    report: GenerationReport | None = None
    reader: Reader | None = None
    """Finds calls in the text, where there are tools."""
    calls: list[Call] = field(default_factory=list)
    num_told_chars: int = 0
    """Of the tokens that a stream has told of so far."""
    is_begun: bool = False

    def add(self, piece: Piece) -> News:
        """Takes in what has come."""
        self.num_tokens = piece.num_tokens
        self.told += piece.told
        self.prompt_told += piece.prompt
        self.rounds += piece.rounds
        self.report = piece.report
        text, calls = piece.text, list[Json]()
        if self.reader is not None:
            deltas = self.reader.push(piece.text)
            if piece.reason is not None:
                deltas += self.reader.flush()
            text = "".join(d.text for d in deltas if isinstance(d, Content))
            calls = [_call_delta(d) for d in deltas if not isinstance(d, Content)]
            self._keep(deltas)
        self.text += text
        self.reason = piece.reason
        if self.calls and piece.reason == "stop":
            self.reason = "tool_calls"
        return News(self, piece, text, calls)

    def _keep(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            if isinstance(delta, CallStart):
                self.calls.append(Call(delta.id, delta.name))
            elif isinstance(delta, CallArguments):
                self.calls[delta.index].arguments += delta.text


@dataclass(frozen=True, slots=True)
class News:
    """What a piece brought to a choice: text, and parts of calls."""

    choice: Choice
    piece: Piece
    text: str
    calls: Sequence[Json]

    @property
    def is_worth_telling(self) -> bool:
        """What may be the beginning of a call is held back."""
        piece = self.piece
        is_told = bool(piece.told or piece.prompt or piece.rounds)
        return bool(self.text or self.calls or is_told or piece.reason is not None)


class Choices:
    """All choices of one answer, and its shape."""

    def __init__(
        self,
        body: GenerationBody,
        prompts: Sequence[Prompt],
        max_tokens: int,
        timeout_s: float,
        text: TextModel,
        config: GatewayConfig,
        toolset: Toolset | None = None,
    ) -> None:
        """One choice for each prompt and each of its `n`; raises InvalidRequestError for what
        cannot be served."""
        self.body = body
        self.prompts = prompts
        self.text = text
        check(body, [prompt.tokens for prompt in prompts], max_tokens, text, config)
        # Absent seeds are drawn here, so that a published request is reproducible.
        seed = body.seed if body.seed is not None else secrets.randbits(63)
        grammar = _grammar(body, toolset)
        base = _wanted(body, max_tokens, timeout_s, seed, text, grammar)
        if toolset is not None:
            base = replace(
                base,
                kept_markers=toolset.kept_markers(text),
                only_call=toolset.only_call(text),
            )
        self.all: list[Choice] = []
        for prompt in prompts:
            for number in range(body.n):
                sampling = wire.replace(base.sampling, seed=_offset(seed, number))
                wanted = replace(base, prompt=prompt.tokens, sampling=sampling)
                reader = None if toolset is None else toolset.reader(text)
                choice = Choice(len(self.all), wanted, prompt.echo, reader=reader)
                self.all.append(choice)

    @contextmanager
    def metered(self, request: web.Request) -> Iterator[None]:
        """Takes all tokens that may come from the key's share, and gives back what did not."""
        meter = request.get(METER)
        if meter is None:
            yield
            return
        most = sum(choice.wanted.max_tokens for choice in self.all)
        meter.take_tokens(sum(len(prompt.tokens) for prompt in self.prompts) + most)
        try:
            yield
        finally:
            meter.give_back_tokens(most - sum(choice.num_tokens for choice in self.all))

    def whole(self, shape: Shape) -> Json:
        """The answer in one piece."""
        done = [
            shape.choice(
                c.index,
                c.echo + c.text,
                [call.whole() for call in c.calls],
                c.reason,
                self._logprobs(c, c.told, len(c.echo), is_first=True),
            )
            for c in self.all
        ]
        first = self.all[0]
        whole = {**shape.whole(done, self.usage()), **self.metrics(), **self._trace(first.rounds)}
        if self.body.prompt_logprobs is None:
            return whole
        # As vLLM has it: a chat's is beside its choices.
        if isinstance(self.body, ChatBody):
            return {**whole, "prompt_logprobs": self._of_prompt(first)}
        for choice, own in zip(self.all, done, strict=True):
            own["prompt_logprobs"] = self._of_prompt(choice)
        return whole

    def chunk(self, shape: Shape, news: News) -> Json:
        """What is new."""
        choice, piece = news.choice, news.piece
        is_first = not choice.is_begun
        choice.is_begun = True
        text = choice.echo + news.text if is_first else news.text
        reason = None if piece.reason is None else choice.reason
        offset = len(choice.echo) + choice.num_told_chars
        logprobs = self._logprobs(choice, piece.told, offset, is_first=is_first)
        choice.num_told_chars += sum(num_chars(self.text, told.token) for told in piece.told)
        delta = shape.delta(choice.index, text, news.calls, reason, logprobs, is_first)
        return {**shape.chunk([delta]), **self._trace(piece.rounds)}

    def usage(self) -> Json:
        """Each prompt counts once, however many choices it has, as what the first of them met."""
        firsts = self.all[:: len(self.all) // len(self.prompts)]
        num_reused = sum(choice.report.num_reused_tokens for choice in firsts if choice.report)
        num_prompt = sum(len(prompt.tokens) for prompt in self.prompts)
        num_completion = sum(choice.num_tokens for choice in self.all)
        return responses.usage(num_prompt, num_completion, num_reused)

    def metrics(self) -> Json:
        """The speculation of the only choice; null for several, as in vLLM."""
        if not self.body.return_speculation:
            return {}
        report = self.all[0].report if len(self.all) == 1 else None
        detail = None if report is None else responses.speculation(report)
        seed = self.all[0].wanted.sampling.seed
        return {"metrics": {"speculative_decoding": detail, "seed": seed}}

    def _trace(self, rounds: Sequence[Json]) -> Json:
        return {"trace": {"rounds": list(rounds)}} if self.body.return_trace else {}

    def _logprobs(
        self, choice: Choice, told: Sequence[Told], offset: int, *, is_first: bool
    ) -> Json | None:
        """Of tokens whose text begins at `offset`; an echoed prompt's come first."""
        if num_logprobs(self.body) is None:
            return None
        if isinstance(self.body, ChatBody):
            return chat_logprobs(self.text, told)
        num_top = num_echoed(self.body) if is_first else None
        prompt = None
        if num_top is not None:
            prompt = PromptTold(choice.wanted.prompt, choice.prompt_told, num_top, choice.echo)
        return completion_logprobs(self.text, told, offset, prompt)

    def _of_prompt(self, choice: Choice) -> list[Json | None]:
        num_top = self.body.prompt_logprobs or 0
        return prompt_logprobs(self.text, choice.wanted.prompt, choice.prompt_told, num_top)


def _wanted(
    body: GenerationBody,
    max_tokens: int,
    timeout_s: float,
    seed: int,
    text: TextModel,
    grammar: Grammar | None,
) -> Wanted:
    """What all choices have in common."""
    manifest = text.manifest
    eos = [] if body.ignore_eos else manifest.eos_token_ids
    return Wanted(
        [],
        max_tokens,
        body.sampling(seed, manifest.vocab_size),
        [*eos, *body.stop_token_ids],
        body.stops,
        timeout_s,
        body.min_tokens,
        grammar,
        num_logprobs(body),
        Steering() if body.speculation is None else body.speculation.steering(),
        body.return_trace,
        is_batch=body.is_batch,
        num_prompt_logprobs=num_of_prompt(body, max_tokens),
        tells_markers=num_echoed(body) is not None,
    )


def _grammar(body: GenerationBody, toolset: Toolset | None) -> Grammar | None:
    """What the text must be: at most one of what was asked for can say so."""
    own = only_grammar(body.response_format, body.structured_outputs)
    called = None if toolset is None else toolset.grammar()
    if own is not None and called is not None:
        raise InvalidRequestError(
            f"tool_choice: a call is all that the text can be; {own.source} says otherwise",
            "tool_choice",
        )
    return own or called


def _call_delta(delta: CallStart | CallArguments) -> Json:
    """As OpenAI streams it."""
    if isinstance(delta, CallArguments):
        return {"index": delta.index, "function": {"arguments": delta.text}}
    function = {"name": delta.name, "arguments": ""}
    return {"index": delta.index, "id": delta.id, "type": "function", "function": function}


def _offset(seed: int, number: int) -> int:
    """The seed of the n-th choice, within 64 bits."""
    return (seed + number + (1 << 63)) % (1 << 64) - (1 << 63)
