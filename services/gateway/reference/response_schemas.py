"""The bodies that the REST routes answer with, as schemas: /openapi.json is made of them, and
tests hold real answers against them. Nothing is answered that is not named here."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class Answer(BaseModel):
    """Base of the answers. A field with a default may be absent."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class ErrorDetail(Answer):
    message: str
    """What is wrong, in a sentence."""
    type: str
    """`invalid_request_error`, `rate_limit_error`, `timeout_error`, ..."""
    param: str | None
    """The field at fault, if one is."""
    code: str | None
    """Stable; for programs."""


class Error(Answer):
    """OpenAI's."""

    error: ErrorDetail


class Cancellation(Answer):
    id: str
    cancelled: int
    """How many generations were ended."""


class PromptDetails(Answer):
    cached_tokens: int
    """Those whose keys and values were there already."""


class Usage(Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Seconds(Answer):
    """Where the time of a request's rounds went."""

    drafting: float
    voting: float
    hops: float
    """Messages on their way to drafters and voter, and back."""
    waiting: float
    """For a place in a pass."""
    forward_pass: float
    sampling: float
    rest: float


class DrafterMetrics(Answer):
    """What one draft model did for the request."""

    name: str
    num_proposals: int
    num_proposed_tokens: int
    num_ready_tokens: int
    """Of the proposed, those drafted ahead."""
    num_votes_won: int
    agreement: float
    """The part of its tokens that were the target's own."""
    weight: float


class SpeculativeDecoding(Answer):
    """vLLM's counters, and what each drafter did."""

    mean_acceptance_length: float
    draft_acceptance_rate: float
    acceptance_histogram: list[int]
    acceptance_histogram_by_draft_length: dict[str, list[int]]
    num_spec_steps: int
    num_accepted_draft_tokens: int
    num_draft_tokens: int
    num_spec_tokens: int
    num_target_passes: int
    num_draft_timeouts: int
    seconds: Seconds
    drafters: list[DrafterMetrics]


class Metrics(Answer):
    """With `return_speculation`."""

    speculative_decoding: SpeculativeDecoding | None
    """Null where there are several choices."""
    seed: int
    """With it, the request can be repeated."""


class Model(Answer):
    """A target, or a recommender."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None = None
    drafters: list[str] | None = None
    """Names of those that draft for it and are live."""
    verifiers: int | None = None
    """How many are live."""
    kind: Literal["recommender"] | None = None


class ModelList(Answer):
    object: Literal["list"]
    data: list[Model]


class InfoModel(Answer):
    id: str
    max_model_len: int
    vocab_size: int
    eos_token_ids: list[int]
    has_chat_template: bool


class InfoLimits(Answer):
    max_body_bytes: int
    max_choices: int
    max_in_flight: int
    max_completion_tokens: int
    request_timeout_s: float


class Info(Answer):
    """What is served, by how many instances, within which limits."""

    object: Literal["info"]
    version: str
    model: InfoModel | None
    """The target for requests that name none."""
    models: list[InfoModel]
    """All targets."""
    recommender: str
    instances: dict[str, dict[str, int]]
    """By role, how many of each name."""
    limits: InfoLimits


class StatusInstance(Answer):
    id: str
    role: str
    name: str
    attributes: dict[str, str]


class StatusDrafter(Answer):
    num_proposed_tokens: int
    num_agreed_tokens: int
    num_votes_won: int
    weight: float
    """The last one."""
    acceptance: float


class StatusQueues(Answer):
    """How many requests nobody has taken yet."""

    generate: int
    recommend: int


class StatusTotals(Answer):
    requests: int
    prompt_tokens: int
    completion_tokens: int
    target_passes: int
    draft_tokens: int
    accepted_tokens: int


class Status(Answer):
    """Counts are this gateway's own, since its start; instances and queues are everybody's."""

    object: Literal["status"]
    model: str | None
    """The target for requests that name none."""
    time: float
    """Unix seconds."""
    in_flight: int
    queues: StatusQueues
    instances: list[StatusInstance]
    drafters: dict[str, StatusDrafter]
    totals: StatusTotals


class TokenList(Answer):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None
    """With `return_token_strs`."""


class Text(Answer):
    prompt: str


class Scored(Answer):
    """An item and its rank: by name, or by its place in `inputs`."""

    item: str | None = None
    index: int | None = None
    score: float
    rank: int


class Recommendations(Answer):
    """`data` has the best first; `scores`, where no `k` was asked for, all in the items' order."""

    object: Literal["list"]
    model: str
    version: str
    data: list[Scored] | None = None
    scores: list[float] | None = None
    num_unknown: int | None = None
    """Values of the context that the model has no row for."""


class StoredTables(Answer):
    """Tables that are stored as one."""

    tables: list[str]
    num_rows: int
    dim: int
    element: str
    bytes: int
    offset: int
    tier: str
    bank: int | None
    ns: float
    """What an access costs."""
    reason: str


class Plan(Answer):
    object: Literal["plan"]
    model: str
    version: str
    profile: str
    bytes: int
    bytes_alone: int
    """With each table by itself."""
    ns_an_item: float
    stored: list[StoredTables]


class RowsAccepted(Answer):
    """In the journal that each replica reads."""

    object: Literal["rows"]
    model: str
    version: str
    table: str
    num_rows: int


class Live(Answer):
    live: bool


class Ready(Answer):
    """Ready when something can be served and no drain has begun."""

    ready: bool
    draining: bool
    generation: bool
    recommendation: bool


class Document(BaseModel):
    """This document."""

    model_config = ConfigDict(extra="allow")

    openapi: str
    info: dict[str, JsonValue]
    paths: dict[str, JsonValue] = Field(default_factory=dict)
