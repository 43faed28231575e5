"""The choices of one answer: what each asks for, what it has become, and how that is told."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from aiohttp import web

from services.gateway import responses
from services.gateway.chats import Toolset
from services.gateway.config import GatewayConfig
from services.gateway.details import Told, chat_logprobs, completion_logprobs
from services.gateway.doorkeeper import METER
from services.gateway.generation import Piece, Wanted
from services.gateway.options import only_grammar
from services.gateway.responses import Json, Shape
from services.gateway.schemas import ChatBody, CompletionBody, GenerationBody
from services.gateway.text import TextModel
from services.gateway.tool_deltas import CallArguments, CallStart, Content, Delta
from services.gateway.tool_readers import Reader
from shared.errors import InvalidRequestError
from shared.generation import Grammar, Steering
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
        return bool(
            self.text or self.calls or piece.told or piece.rounds or piece.reason is not None
        )


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
        self._text = text
        _check(body, prompts, max_tokens, text, config)
        # Absent seeds are drawn here, so that a published request is reproducible.
        seed = body.seed if body.seed is not None else secrets.randbits(63)
        grammar = _grammar(body, toolset)
        base = _wanted(body, max_tokens, timeout_s, seed, text, grammar)
        if toolset is not None:
            base = replace(base, kept_markers=toolset.kept_markers(text))
        self.all: list[Choice] = []
        for prompt in prompts:
            for number in range(body.n):
                sampling = replace(base.sampling, seed=_offset(seed, number))
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
                self._logprobs(c.told, len(c.echo)),
            )
            for c in self.all
        ]
        rounds = self.all[0].rounds
        return {**shape.whole(done, self.usage()), **self.metrics(), **self._trace(rounds)}

    def chunk(self, shape: Shape, news: News) -> Json:
        """What is new."""
        choice, piece = news.choice, news.piece
        is_first = not choice.is_begun
        choice.is_begun = True
        text = choice.echo + news.text if is_first else news.text
        reason = None if piece.reason is None else choice.reason
        logprobs = self._logprobs(piece.told, len(choice.echo) + choice.num_told_chars)
        choice.num_told_chars += sum(len(self._text.token_text(t.token)) for t in piece.told)
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

    def _logprobs(self, told: Sequence[Told], offset: int) -> Json | None:
        if _num_logprobs(self.body) is None:
            return None
        if isinstance(self.body, ChatBody):
            return chat_logprobs(self._text, told)
        return completion_logprobs(self._text, told, offset)


def _check(
    body: GenerationBody,
    prompts: Sequence[Prompt],
    max_tokens: int,
    text: TextModel,
    config: GatewayConfig,
) -> None:
    text.require_model(body.model)
    text.require_tokens(body.stop_token_ids, "stop_token_ids")
    num_choices = len(prompts) * body.n
    if num_choices > config.max_choices:
        raise InvalidRequestError(
            f"{len(prompts)} prompts with n={body.n} make {num_choices} choices; "
            f"at most {config.max_choices} are served at a time",
            "n",
        )
    if body.return_trace and num_choices > 1:
        raise InvalidRequestError(
            "return_trace: the rounds of one choice can be told, not of several", "return_trace"
        )
    if body.min_tokens > max_tokens:
        raise InvalidRequestError(
            f"min_tokens: {body.min_tokens} are more than the {max_tokens} there may be",
            "min_tokens",
        )
    for prompt in prompts:
        if len(prompt.tokens) + max_tokens > text.manifest.max_context:
            raise InvalidRequestError(
                f"the prompt has {len(prompt.tokens)} tokens and {max_tokens} more are wanted; "
                f"the model's context is {text.manifest.max_context} tokens",
                "messages" if isinstance(body, ChatBody) else "prompt",
            )


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
        _num_logprobs(body),
        Steering() if body.speculation is None else body.speculation.steering(),
        body.return_trace,
        is_batch=body.is_batch,
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


def _num_logprobs(body: GenerationBody) -> int | None:
    """How many of the likeliest tokens are told at each place; None: nothing is."""
    if isinstance(body, CompletionBody):
        if body.echo and body.logprobs is not None:
            raise InvalidRequestError(
                "logprobs: of an echoed prompt there are none; ask for one of the two", "logprobs"
            )
        return body.logprobs
    if not isinstance(body, ChatBody):
        return None
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequestError("top_logprobs goes with logprobs: true", "top_logprobs")
    return body.top_logprobs if body.logprobs else None


def _offset(seed: int, number: int) -> int:
    """The seed of the n-th choice, within 64 bits."""
    return (seed + number + (1 << 63)) % (1 << 64) - (1 << 63)
