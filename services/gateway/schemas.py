"""The bodies that the REST routes take: what is supported, and what is refused by name.

No field is ignored: one that Quorum does not know, or knows and does not support, is a 400 that
names it, unless it asks for just what happens anyway.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Literal, NoReturn, TypeVar

from pydantic import Field, ValidationError

from services.gateway.chats import ChatMessage
from services.gateway.options import (
    Body,
    ResponseFormat,
    SpeculationOptions,
    StreamOptions,
    StructuredOutputs,
)
from services.gateway.reference.foreign_fields import ALSO_NEUTRAL
from services.gateway.tools.schemas import ToolChoice, Tools
from shared.errors import InvalidRequestError
from shared.generation import Sampling

B = TypeVar("B", bound="Body")
MAX_STOPS = 4
MAX_STOP_CHARS = 256
MAX_LOGPROBS = 20
INT64 = 1 << 63
MAX_NAME = 512
"""Characters of an input's or output's name."""

# Fields of OpenAI's and vLLM's that are not supported, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "echo": (None, False),
    "top_logprobs": (None, 0),
    "frequency_penalty": (None,),
    "function_call": (None, "none"),
    "functions": (None, []),
    "metadata": (None, {}),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None, True, False),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "store": (None, False),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "verbosity": (None,),
    "web_search_options": (None,),
    **ALSO_NEUTRAL,
}

Finite = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class GenerationBody(Body):
    """What completions and chats have in common. Null means the default, as with OpenAI."""

    model: str | None = None
    n: int = Field(1, ge=1, le=128)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    min_tokens: int = Field(0, ge=0)
    temperature: Finite = Field(1.0, ge=0, le=2)
    top_p: Finite = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1, lt=INT64)
    min_p: Finite = Field(0.0, ge=0, le=1)
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    presence_penalty: Finite = Field(0.0, ge=-2, le=2)
    frequency_penalty: Finite = Field(0.0, ge=-2, le=2)
    repetition_penalty: Finite = Field(1.0, gt=0, le=10)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]] = Field(
        default_factory=dict, max_length=1024
    )
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] = Field(default_factory=list)
    stop_token_ids: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list, max_length=64)
    ignore_eos: bool = False
    user: str | None = Field(None, max_length=512)
    timeout: Finite | None = Field(None, gt=0)
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    speculation: SpeculationOptions | None = None
    priority: Literal["interactive", "batch"] | int = "interactive"
    """Or as vLLM has it, where more than 0 can wait."""
    service_tier: Literal["auto", "default", "flex"] = "auto"
    prompt_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    return_speculation: bool = False
    return_trace: bool = False

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def is_batch(self) -> bool:
        """Whether it can wait: by any of the names for that."""
        is_later = isinstance(self.priority, int) and self.priority > 0
        return is_later or self.priority == "batch" or self.service_tier == "flex"

    @property
    def served_tier(self) -> str | None:
        """OpenAI's name of the class that it is served in, where it has asked for a tier."""
        if "service_tier" not in self.model_fields_set:
            return None
        return "flex" if self.is_batch else "default"

    def sampling(self, seed: int, vocab_size: int) -> Sampling:
        """The parameters on the wire. Raises InvalidRequestError for an unknown token."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=max(0, self.top_k),
            min_p=self.min_p,
            seed=seed,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            logit_bias={_token(key, vocab_size): bias for key, bias in self.logit_bias.items()},
        )


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    max_tokens: int | None = Field(None, ge=0)
    prompt: (
        Annotated[str, Field(min_length=1)]
        | TokenIds
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
        | Annotated[list[TokenIds], Field(min_length=1)]
    )
    echo: bool = False
    """Whether the prompt leads the text."""
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several prompts, each text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [p if isinstance(p, str) else list(p) for p in self.prompt if not isinstance(p, int)]


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1024)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MAX_LOGPROBS)
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True


class TokenizeBody(Body):
    """POST /tokenize."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1024)] | None = None
    return_token_strs: bool = False


class DetokenizeBody(Body):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]


class RecommendBody(Body):
    """POST /v1/recommendations: scores `candidates`, or the best `k` of the whole catalogue; or
    the items that `inputs` are numbers of, all of them or the best `k`."""

    model: str | None = None
    context: dict[str, Annotated[list[str], Field(max_length=4096)]] = Field(default_factory=dict)
    candidates: Annotated[list[str], Field(min_length=1, max_length=10_000)] | None = None
    inputs: Annotated[dict[Name, object], Field(min_length=1)] | None = None
    k: int | None = Field(None, ge=1, le=1000)
    version: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    timeout: Finite | None = Field(None, gt=0)


class RowsBody(Body):
    """POST /v1/recommenders/MODEL/rows: new vectors `values` for `rows` of a table, numbers or
    packed tensors."""

    table: Name
    rows: object
    values: object
    version: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    timeout: Finite | None = Field(None, gt=0)


def parse(cls: type[B], data: bytes) -> B:
    """The body as `cls`. Raises InvalidRequestError naming the field at fault."""
    try:
        text = data.decode("utf-8-sig")
        content = _DECODER.decode(text)
        if "\\u" in text:
            # Half of a surrogate pair is JSON, but no text that could be passed on.
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidRequestError("the body must be a JSON object")
    return check(cls, content)


def check(cls: type[B], content: object, where: str | None = None) -> B:
    """What was read, as `cls`; `where` says of which part of the body, if not of all. Raises
    InvalidRequestError naming the field at fault."""
    try:
        if not isinstance(content, dict):
            raise InvalidRequestError("must be a map of fields")
        try:
            return cls.model_validate(_without_neutral(cls, content))
        except ValidationError as error:
            raise _as_request_error(error) from error
    except InvalidRequestError as error:
        if where is None:
            raise
        raise InvalidRequestError(f"{where}: {error}", where) from error


def _without_neutral(cls: type[Body], content: Mapping[str, object]) -> dict[str, object]:
    """Drops nulls and fields that ask for nothing; refuses those that ask for what is not there."""
    kept: dict[str, object] = {}
    known = cls.model_fields
    for name, value in content.items():
        if name in known:
            if value is not None:
                kept[name] = value
        elif name in NEUTRAL and issubclass(cls, GenerationBody):
            # Compared with its type: 1 is not True here.
            if not any(value == v and type(value) is type(v) for v in NEUTRAL[name]):
                raise InvalidRequestError(f"{name} is not supported", name)
        else:
            raise InvalidRequestError(f"unknown field {name[:100]!r}", name[:100])
    return kept


def _as_request_error(error: ValidationError) -> InvalidRequestError:
    first = error.errors(include_url=False, include_input=False)[0]
    place = [str(part) for part in first["loc"]]
    param = place[0] if place else None
    numbers = [part for part in place[1:] if part.isdigit()]
    where = f"{param}[{']['.join(numbers)}]" if numbers else str(param)
    return InvalidRequestError(f"{where}: {first['msg']}", param)


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Readers differ in which of two they take; one that checks and one that acts must not."""
    content = dict(pairs)
    if len(content) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{twice[:100]!r} is there twice")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_without_duplicates)


def _token(key: str, vocab_size: int) -> int:
    if not key.isdecimal() or len(key) > 9 or int(key) >= vocab_size:
        raise InvalidRequestError(
            f"logit_bias: {key[:40]!r} is no token id within 0 and {vocab_size - 1}", "logit_bias"
        )
    return int(key)
