"""Bodies of KServe's inference protocol (v2) with its binary tensor data: pure.

A body is JSON, behind which the bytes of tensors may lie, one after the other; a header then says
where the JSON ends. As everywhere in Quorum, what is not supported is refused and never ignored.

Where bytes follow, the JSON only names and measures them, and a client sends the same one again and
again: what was made of the last ones is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from services.gateway.options import Body
from services.gateway.recommendation.tensors import flatten, floats_of, of_floats, of_ints, widened
from services.gateway.responses import Json
from services.gateway.schemas import INT64, MAX_NAME, check, parse
from shared.errors import InvalidRequestError
from shared.tensor_messages import Outputs, Tensor

HEADER = "Inference-Header-Content-Length"
DATATYPES = {"int64": "INT64", "float32": "FP32"}
"""The protocol's names for ours."""
VALUE_BYTES = {"INT64": 8, "INT32": 4, "FP32": 4}
"""Of the datatypes that are taken."""
MAX_TIMEOUT_US = 1 << 60

MAX_KEPT, MAX_KEPT_BYTES = 64, 16384
"""Of the JSON in front of bytes: so many, and none that is longer."""

Parameters = dict[str, object]
Size = Annotated[int, Field(ge=0, lt=INT64)]


class InferInput(Body):
    name: str = Field(min_length=1, max_length=MAX_NAME)
    shape: list[Size] = Field(max_length=8)
    datatype: str
    parameters: Parameters = Field(default_factory=dict)
    data: object = None


INPUTS = TypeAdapter(list[InferInput])


class InferOutput(Body):
    name: str = Field(max_length=MAX_NAME)
    parameters: Parameters = Field(default_factory=dict)


class InferBody(Body):
    id: str | None = Field(None, max_length=MAX_NAME)
    parameters: Parameters = Field(default_factory=dict)
    inputs: list[Parameters] = Field(min_length=1)
    outputs: list[Parameters] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Inference:
    """What the JSON of a body asks for."""

    id: str | None
    inputs: list[tuple[InferInput, int | None]]
    """With the number of bytes that follow the JSON, of those whose values do."""
    outputs: dict[str, bool]
    """Those wanted, and whether as bytes; none: all."""
    is_binary: bool
    """Whether outputs are wanted as bytes where nothing else is said."""
    timeout_s: float | None


def read_inference(
    data: bytes, header: str | None, max_json_bytes: int
) -> tuple[Inference, dict[str, Tensor]]:
    """What is asked for, and its inputs. Raises InvalidRequestError naming what is wrong."""
    length = len(data) if header is None else _length(header, len(data))
    if length > max_json_bytes:
        raise InvalidRequestError(
            f"the JSON has {length} bytes; at most {max_json_bytes} are taken: send tensors as "
            "binary data"
        )
    read = _read_again if header is not None and length <= MAX_KEPT_BYTES else _read_json
    wanted = read(data[:length])
    return wanted, _read_inputs(wanted.inputs, data[length:])


def _read_json(data: bytes) -> Inference:
    body = parse(InferBody, data)
    allowed = _allowed(body.parameters, "the request", {"binary_data_output": bool, "timeout": int})
    is_binary = allowed.get("binary_data_output") is True
    timeout_us = allowed.get("timeout")
    if isinstance(timeout_us, int) and timeout_us < 1:
        raise InvalidRequestError(
            f"parameter 'timeout' is {timeout_us}; it takes microseconds from 1 on"
        )
    outputs: dict[str, bool] = {}
    for number, given in enumerate(body.outputs):
        output = check(InferOutput, given, f"outputs[{number}]")
        where = f"output {output.name!r}"
        is_bytes = _allowed(output.parameters, where, {"binary_data": bool}).get("binary_data")
        outputs[output.name] = is_binary if is_bytes is None else is_bytes is True
    return Inference(
        body.id,
        _sized(body.inputs),
        outputs,
        is_binary,
        min(timeout_us, MAX_TIMEOUT_US) / 1e6 if isinstance(timeout_us, int) else None,
    )


_read_again = lru_cache(MAX_KEPT)(_read_json)


def write_inference(model: str, wanted: Inference, answer: Outputs) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON if bytes follow. Raises InvalidRequestError for an
    output that the model does not have."""
    tail: list[bytes] = []
    outputs: list[Json] = []
    selected = wanted.outputs or dict.fromkeys(answer.outputs, wanted.is_binary)
    for name, is_binary in selected.items():
        tensor = answer.outputs.get(name)
        if tensor is None:
            known = ", ".join(answer.outputs)
            raise InvalidRequestError(f"no output {name!r}; this model has {known}")
        output: Json = {
            "name": name,
            "datatype": DATATYPES[tensor.dtype],
            "shape": tensor.shape,
        }
        if is_binary:
            output["parameters"] = {"binary_data_size": len(tensor.data)}
            tail.append(tensor.data)
        else:
            output["data"] = floats_of(tensor)
        outputs.append(output)
    head: Json = {"model_name": model, "model_version": answer.version, "outputs": outputs}
    if wanted.id is not None:
        head["id"] = wanted.id
    text = json.dumps(head, ensure_ascii=False).encode()
    return b"".join([text, *tail]), len(text) if tail else None


def _length(header: str, num_bytes: int) -> int:
    if not (header.isascii() and header.isdecimal()) or len(header) > 9 or int(header) > num_bytes:
        raise InvalidRequestError(
            f"{HEADER} is {header[:40]!r}; it takes the length of the JSON, and the body has "
            f"{num_bytes} bytes"
        )
    return int(header)


def _sized(given: list[Parameters]) -> list[tuple[InferInput, int | None]]:
    """Raises InvalidRequestError for what no bytes could mend."""
    found: dict[str, tuple[InferInput, int | None]] = {}
    for one in _checked(given):
        if one.name in found:
            raise InvalidRequestError(f"input {one.name!r} is there twice")
        if one.datatype not in VALUE_BYTES:
            raise InvalidRequestError(
                f"input {one.name!r} is {one.datatype[:40]}; there are {', '.join(VALUE_BYTES)}"
            )
        where = f"input {one.name!r}"
        size = _allowed(one.parameters, where, {"binary_data_size": int}).get("binary_data_size")
        if isinstance(size, int):
            _check_size(one, size)
        found[one.name] = one, size if isinstance(size, int) else None
    return list(found.values())


def _read_inputs(asked: list[tuple[InferInput, int | None]], rest: bytes) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    place = 0
    for one, size in asked:
        if size is None:
            found[one.name] = _of_data(one)
            continue
        found[one.name] = _of_bytes(one, size, rest[place : place + size])
        place += size
    if place != len(rest):
        raise InvalidRequestError(
            f"{len(rest)} bytes follow the JSON; the inputs' binary_data_size make {place}"
        )
    return found


def _checked(given: list[Parameters]) -> list[InferInput]:
    """All at once, since there may be hundreds; one by one where something is amiss, to name it."""
    try:
        return INPUTS.validate_python(given)
    except ValidationError:
        return [check(InferInput, one, f"inputs[{number}]") for number, one in enumerate(given)]


def _check_size(one: InferInput, size: int) -> None:
    if one.data is not None:
        raise InvalidRequestError(f"input {one.name!r} has both data and binary_data_size")
    wanted = prod(one.shape) * VALUE_BYTES[one.datatype]
    if size != wanted:
        raise InvalidRequestError(
            f"input {one.name!r} has binary_data_size {size}; {one.datatype} {one.shape} takes "
            f"{wanted}"
        )


def _of_bytes(one: InferInput, size: int, data: bytes) -> Tensor:
    if len(data) != size:
        raise InvalidRequestError(
            f"input {one.name!r} has {len(data)} of its {size} bytes behind the JSON"
        )
    if one.datatype == "INT32":
        data = widened(data)
    return Tensor("float32" if one.datatype == "FP32" else "int64", one.shape, data)


def _of_data(one: InferInput) -> Tensor:
    if one.data is None:
        raise InvalidRequestError(f"input {one.name!r} has neither data nor binary_data_size")
    shape, flat = flatten(one.name, one.data)
    count = prod(one.shape)
    if len(flat) != count or (len(shape) > 1 and shape != one.shape):
        raise InvalidRequestError(
            f"input {one.name!r} has data of shape {shape}; needed is {one.shape}, or "
            f"{count} values in a row"
        )
    if one.datatype == "FP32":
        return of_floats(one.name, one.shape, flat)
    return of_ints(one.name, one.shape, flat, "i" if one.datatype == "INT32" else "q")


def _allowed(
    parameters: Mapping[str, object], where: str, kinds: Mapping[str, type]
) -> Mapping[str, object]:
    for name, value in parameters.items():
        if name not in kinds:
            raise InvalidRequestError(
                f"parameter {name[:40]!r} of {where} is not supported; there is {', '.join(kinds)}"
            )
        if type(value) is not kinds[name]:
            raise InvalidRequestError(
                f"parameter {name!r} of {where} is {type(value).__name__}, expected "
                f"{kinds[name].__name__}"
            )
    return parameters
