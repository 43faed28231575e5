"""Schemas of what the routes of KServe's inference protocol answer with."""

from __future__ import annotations

from pydantic import ConfigDict

from services.gateway.reference.response_schemas import Answer


class KServeError(Answer):
    """The inference protocol's."""

    error: str


class KServeServer(Answer):
    name: str
    version: str
    extensions: list[str]


class KServeTensor(Answer):
    name: str
    datatype: str
    shape: list[int]
    """-1: any size."""


class KServeModel(Answer):
    name: str
    versions: list[str]
    platform: str
    inputs: list[KServeTensor]
    outputs: list[KServeTensor]


class KServeModelReady(Answer):
    name: str
    ready: bool


class BinarySize(Answer):
    binary_data_size: int


class KServeOutput(Answer):
    """`data` is flat; a binary tensor has its size instead, and lies behind the JSON."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float] | None = None
    parameters: BinarySize | None = None


class KServeInference(Answer):
    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[KServeOutput]


class KServeReady(Answer):
    ready: bool
