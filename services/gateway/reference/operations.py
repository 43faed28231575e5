"""Every route of the gateway as /openapi.json tells of it: what it is for, takes and answers.
A test holds the table against the router, and real answers against its schemas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel

from services.gateway.recommendation.inference import InferBody
from services.gateway.reference import generation_schemas as gs
from services.gateway.reference import kserve_schemas as ks
from services.gateway.reference import response_schemas as rs
from services.gateway.responses import Json
from services.gateway.schemas import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    RecommendBody,
    RowsBody,
    TokenizeBody,
)

JSON = "application/json"
MSGPACK = "application/msgpack"
BYTES = "application/octet-stream"
EVENTS = "text/event-stream"

Group = Literal[
    "Generation", "Recommendation", "Inference protocol", "Information", "Health", "Pages"
]
GROUPS: dict[Group, str] = {
    "Generation": "As OpenAI and vLLM have it.",
    "Recommendation": "Scores of items, by names or by numbers; the tables behind them.",
    "Inference protocol": "KServe's, version 2, with binary tensors, for the recommender.",
    "Information": "What is served, and how it fares.",
    "Health": "For orchestrators and Prometheus.",
    "Pages": "For people. Open without a key: what they ask for, they ask with their reader's.",
}
PARAMETERS = {
    "model": "A name that `GET /v1/models` lists.",
    "version": "A version of the model, by its name or a label.",
    "file": "A part of the page.",
    "id": "The `x-request-id` that came with the answer, or that the request gave.",
}
WORDS = {"context": {}, "k": 3}
PROMPT = "def read_lines(path):\n"
CHAT = [{"role": "user", "content": "What does textwrap.dedent do?"}]
Content = type[BaseModel] | None
"""Of one kind; None: no JSON."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: Literal["get", "post", "delete"]
    path: str
    group: Group
    summary: str
    answers: Mapping[int, Mapping[str, Content]]
    """By status and kind, other than errors."""
    errors: tuple[int, ...] = ()
    """Beside those that keys bring about."""
    takes: tuple[str, ...] = ()
    """Kinds of the request's body."""
    body: type[BaseModel] | None = None
    events: type[BaseModel] | None = None
    """What a stream is made of."""
    examples: Mapping[str, Json] = field(default_factory=dict)
    """Of the body."""
    is_timed: bool = False
    """Whether it takes X-Request-Timeout."""

    @property
    def id(self) -> str:
        parts = self.path.replace("{", "").replace("}", "").strip("/").split("/")
        return "_".join([self.method, *(part.replace(".", "_") for part in parts if part)])


def _get(
    path: str, group: Group, summary: str, answer: Content, errors: tuple[int, ...] = ()
) -> Operation:
    return Operation("get", path, group, summary, {200: {JSON: answer}}, errors)


def _page(path: str, summary: str) -> list[Operation]:
    name = path.strip("/") or "console"
    html: Mapping[int, Mapping[str, Content]] = {200: {"text/html": None}, 304: {}}
    parts: Mapping[int, Mapping[str, Content]] = {200: {"*/*": None}, 304: {}}
    file = f"/static/{name}/{{file}}"
    return [
        Operation("get", path, "Pages", summary, html),
        Operation("get", file, "Pages", "A script, style or picture of it", parts, (404,)),
    ]


GENERATION = (
    Operation(
        "post", "/v1/completions", "Generation", "Completes a text",
        {200: {JSON: gs.Completion, EVENTS: None}},
        (400, 404, 408, 413, 429, 499, 503, 504), (JSON,), CompletionBody, gs.CompletionChunk,
        {
            "Greedy": {"prompt": PROMPT, "max_tokens": 48, "temperature": 0},
            "Streamed, with the quorum's report": {
                "prompt": PROMPT, "max_tokens": 48, "temperature": 0, "stream": True,
                "return_speculation": True,
            },
        }, True,
    ),
    Operation(
        "post", "/v1/chat/completions", "Generation", "Answers a chat",
        {200: {JSON: gs.ChatCompletion, EVENTS: None}},
        (400, 404, 408, 413, 429, 499, 503, 504), (JSON,), ChatBody, gs.ChatCompletionChunk,
        {
            "A question": {"messages": CHAT, "max_tokens": 64},
            "Streamed, with usage": {
                "messages": CHAT, "max_tokens": 64, "stream": True,
                "stream_options": {"include_usage": True},
            },
        }, True,
    ),
    Operation(
        "post", "/tokenize", "Generation", "The tokens of a prompt or a chat",
        {200: {JSON: rs.TokenList}}, (400, 404, 408, 413), (JSON,), TokenizeBody, None,
        {
            "A prompt": {"prompt": PROMPT, "return_token_strs": True},
            "A chat": {"messages": CHAT},
        },
    ),
    Operation(
        "post", "/detokenize", "Generation", "The text of tokens",
        {200: {JSON: rs.Text}}, (400, 404, 408, 413), (JSON,), DetokenizeBody, None,
        {"Three tokens": {"tokens": [35, 36, 37]}},
    ),
    Operation(
        "delete", "/v1/requests/{id}", "Generation",
        "Ends what is generated for an `x-request-id`, at whichever gateway it is",
        {200: {JSON: rs.Cancellation}}, (404,),
    ),
)  # fmt: skip
RECOMMENDATION = (
    Operation(
        "post", "/v1/recommendations", "Recommendation",
        "Scores candidates, or the best of the catalogue; or the items that `inputs` describe",
        {200: {JSON: rs.Recommendations, MSGPACK: rs.Recommendations}},
        (400, 404, 408, 413, 429, 503, 504), (JSON, MSGPACK), RecommendBody, None,
        {"The best three": WORDS}, True,
    ),
    Operation(
        "get", "/v1/recommenders/{model}/plan", "Recommendation",
        "Where each table is stored, what an access costs there, and why",
        {200: {JSON: rs.Plan, MSGPACK: rs.Plan}}, (404, 503),
    ),
    Operation(
        "post", "/v1/recommenders/{model}/rows", "Recommendation",
        "Replaces rows of a table in every replica, each by itself",
        {202: {JSON: rs.RowsAccepted, MSGPACK: rs.RowsAccepted}},
        (400, 404, 408, 413, 429, 503, 504), (JSON, MSGPACK), RowsBody, is_timed=True,
    ),
)  # fmt: skip


def _inference(model: str) -> list[Operation]:
    group: Group = "Inference protocol"
    ready = {status: {JSON: ks.KServeModelReady} for status in (200, 503)}
    infer: Mapping[int, Mapping[str, Content]] = {200: {JSON: ks.KServeInference, BYTES: None}}
    errors = (400, 404, 408, 413, 429, 503, 504)
    return [
        _get(model, group, "What the model takes and answers", ks.KServeModel, (404, 503)),
        Operation("get", f"{model}/ready", group, "Whether it can be asked", ready, (404,)),
        Operation(
            "post", f"{model}/infer", group,
            "Tensors in, the dense graph's outputs out. Bytes of tensors may follow the JSON, "
            "whose length `Inference-Header-Content-Length` then says.",
            infer, errors, (JSON, BYTES), InferBody, is_timed=True,
        ),
    ]  # fmt: skip


INFERENCE = (
    _get("/v2", "Inference protocol", "Name and extensions", ks.KServeServer),
    _get("/v2/health/live", "Health", "Whether the process is alive", rs.Live),
    Operation(
        "get", "/v2/health/ready", "Health", "Whether the recommender can be asked",
        {status: {JSON: ks.KServeReady} for status in (200, 503)},
    ),
    *_inference("/v2/models/{model}"),
    *_inference("/v2/models/{model}/versions/{version}"),
)  # fmt: skip
INFORMATION = (
    _get("/v1/models", "Information", "The target and the recommenders", rs.ModelList),
    _get("/v1/models/{model}", "Information", "One of them", rs.Model, (404,)),
    _get("/v1/info", "Information", "Instances and limits", rs.Info),
    _get("/v1/status", "Information", "What is in work, and what it added up to", rs.Status),
    _get("/openapi.json", "Information", "This document", rs.Document),
    _get("/health/live", "Health", "Whether the process is alive", rs.Live),
    Operation(
        "get", "/health/ready", "Health", "Whether anything can be served",
        {status: {JSON: rs.Ready} for status in (200, 503)},
    ),
    Operation(
        "get", "/metrics", "Health", "Prometheus's metrics, by vLLM's names",
        {200: {"text/plain": None}},
    ),
)  # fmt: skip
OPERATIONS: tuple[Operation, ...] = (
    *GENERATION,
    *RECOMMENDATION,
    *INFERENCE,
    *INFORMATION,
    *_page("/docs", "This document, to read and to try"),
    *_page("/", "The console: a request and the quorum at work on it"),
)
