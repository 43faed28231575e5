"""Schemas of what completions and chats answer with: OpenAI's shapes, and Quorum's own beside."""

from __future__ import annotations

from typing import Literal

from services.gateway.reference.response_schemas import Answer, Metrics, Seconds, Usage

Reason = Literal["stop", "length"]
ChatReason = Literal["stop", "length", "tool_calls"]


class TraceToken(Answer):
    token: int
    text: str
    """Empty for a piece of a character until that is complete."""


class EmittedToken(TraceToken):
    source: Literal["accepted", "corrected", "bonus", "plain"]
    """Drafted; where a draft failed; after a whole draft; or without one."""
    drafters: list[str]
    """Those that proposed it, just here."""


class TraceVote(Answer):
    """What a drafter proposed."""

    drafter: str
    weight: float
    tokens: list[TraceToken]
    num_agreed: int
    num_ready: int
    """Of the tokens, those drafted ahead: before they were asked for."""


class TraceRound(Answer):
    """One round of drafting, voting and verifying."""

    index: int
    started_s: float
    """Since the request was taken into work."""
    length: int
    """How many draft tokens were asked for."""
    num_running: int
    """Requests in work at the verifier."""
    draft: list[TraceToken]
    num_accepted: int
    tokens: list[EmittedToken]
    votes: list[TraceVote]
    seconds: Seconds


class Trace(Answer):
    """With `return_trace`."""

    rounds: list[TraceRound]


class GenerationAnswer(Answer):
    id: str
    created: int
    """Unix seconds."""
    model: str
    service_tier: Literal["default", "flex"] | None = None
    """The one that served it, where the request names one."""


class PromptLogprob(Answer):
    """A token at a place of the prompt."""

    logprob: float
    rank: int
    """1 of the likeliest."""
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""Null of the first token; of each other itself and the likeliest, by their ids."""


class CompletionLogprobs(Answer):
    """One entry a token; an echoed prompt's come first."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """Null of a prompt's first token."""
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(Answer):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Reason | None
    """Null while more is to come."""
    prompt_logprobs: PromptLogprobs | None = None
    """Where they are asked for."""


class Completion(GenerationAnswer):
    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage
    metrics: Metrics | None = None
    trace: Trace | None = None


class CompletionChunk(GenerationAnswer):
    """An event of a stream. The last one has no choices, and what was asked for beside them."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage | None = None
    metrics: Metrics | None = None
    trace: Trace | None = None


class TopLogprob(Answer):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    content: list[TokenLogprob]
    refusal: None


class AnsweredFunction(Answer):
    name: str
    arguments: str
    """JSON text of an object."""


class AnsweredCall(Answer):
    """A call that the model makes."""

    id: str
    type: Literal["function"]
    function: AnsweredFunction


class AnsweredMessage(Answer):
    role: Literal["assistant"]
    content: str | None
    """Null where there are calls alone."""
    refusal: None
    tool_calls: list[AnsweredCall] | None = None


class ChatChoice(Answer):
    index: int
    message: AnsweredMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatReason


class ChatCompletion(GenerationAnswer):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    prompt_logprobs: PromptLogprobs | None = None
    """Where they are asked for."""
    usage: Usage
    metrics: Metrics | None = None
    trace: Trace | None = None


class FunctionDelta(Answer):
    name: str | None = None
    arguments: str


class CallDelta(Answer):
    """The beginning of a call, or more of its arguments."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class Delta(Answer):
    """What is new; the role comes first."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[CallDelta] | None = None


class ChatChunkChoice(Answer):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: ChatReason | None
    """Null while more is to come."""


class ChatCompletionChunk(GenerationAnswer):
    """An event of a stream. The last one has no choices, and what was asked for beside them."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    metrics: Metrics | None = None
    trace: Trace | None = None
