"""The messages that carry tensors to recommenders and back, and say what tensors a model takes.

As those of messages.py, which lists them all.
"""

from __future__ import annotations

from shared.wire import Wired


class Tensor(Wired, frozen=True):
    """Numbers of a shape: `dtype` is int64 or float32, `data` little-endian in C order."""

    dtype: str
    shape: list[int]
    data: bytes


class ScoreRequest(Wired, frozen=True):
    """gateway -> recommender group. `inputs` are those of the model, by name; where `is_typed` is
    false, whole numbers serve for fractions, since JSON does not tell them apart. `version` is the
    only one that may answer; None: any."""

    request_id: str
    reply_to: str
    inputs: dict[str, Tensor]
    is_typed: bool
    version: str | None
    deadline: float


class Outputs(Wired, frozen=True):
    """Terminal answer to a ScoreRequest: the dense graph's outputs by name, in its order."""

    request_id: str
    outputs: dict[str, Tensor]
    version: str


class WriteRows(Wired, frozen=True):
    """gateway -> recommender group: new vectors `values` float32 [n, dim] for rows int64 [n] of a
    table, in every replica of the version."""

    request_id: str
    reply_to: str
    table: str
    rows: Tensor
    values: Tensor
    version: str | None
    deadline: float


class Written(Wired, frozen=True):
    """Terminal answer to WriteRows: they are in the version's journal, which each of its replicas
    reads, those that start later too."""

    request_id: str
    num_rows: int
    version: str


class RowsWritten(Wired, frozen=True):
    """An entry of a version's journal: what a WriteRows asked for."""

    table: str
    rows: Tensor
    values: Tensor


class DescribeRequest(Wired, frozen=True):
    """gateway -> inbox of a recommender, soft: what does it serve as this version, by which plan?
    One that has another version is silent."""

    request_id: str
    reply_to: str
    version: str


class Description(Wired, frozen=True):
    """recommender -> gateway, soft: JSON of model, version, inputs, outputs and plan."""

    request_id: str
    json: str
