"""The durable topics: name, message type, who reads. Inboxes are addressed by instance instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from shared.messages import GenerateRequest, RecommendRequest
from shared.tensor_messages import ScoreRequest, WriteRows

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Topic(Generic[M]):
    """A named log of messages of one type, shared out among the consumers of one group."""

    name: str
    type: type[M]
    group: str


def generate_requests(model: str) -> Topic[GenerateRequest]:
    """Written by gateways, read by the group of verifiers that hold this target model."""
    return Topic(f"generate.requests.{model}", GenerateRequest, "verifier")


def batch_generate_requests(model: str) -> Topic[GenerateRequest]:
    """Likewise, of what can wait: verifiers take it after the above. Older verifiers know that
    topic alone, which is why the usual class of work has it."""
    return Topic(f"batch.requests.{model}", GenerateRequest, "verifier")


def recommend_requests(model: str) -> Topic[RecommendRequest]:
    """Written by gateways, read by the group of recommenders that hold this model."""
    return Topic(f"recommend.requests.{model}", RecommendRequest, "recommender")


def write_requests(model: str) -> Topic[WriteRows]:
    """Likewise, of new rows for its tables."""
    return Topic(f"write.requests.{model}", WriteRows, "recommender")


def score_requests(model: str) -> Topic[ScoreRequest]:
    """Likewise, of tensors instead of names."""
    return Topic(f"score.requests.{model}", ScoreRequest, "recommender")
