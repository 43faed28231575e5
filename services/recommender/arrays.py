"""Tensors of messages as arrays, and back: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import numpy.typing as npt

from services.recommender.layout import Tensor as Wanted
from shared.errors import InvalidRequestError
from shared.tensor_messages import Tensor

FloatArray = npt.NDArray[np.float32]
Array = npt.NDArray[np.int64] | FloatArray
MAX_DIMS = 8
ITEM_BYTES = {"int64": 8, "float32": 4}


def read_arrays(
    inputs: Mapping[str, Tensor], wanted: Sequence[Wanted], is_typed: bool
) -> dict[str, Array]:
    """Untyped whole numbers become fractions where those are wanted. Raises InvalidRequestError
    naming the input whose bytes are not what it says, or hold what is not finite."""
    fractions = {tensor.name for tensor in wanted if tensor.dtype == "float32"}
    arrays: dict[str, Array] = {}
    for name, tensor in inputs.items():
        array = _read_array(name, tensor)
        if not is_typed and name in fractions:
            array = array.astype(np.float32)
        arrays[name] = array
    return arrays


def read_rows(rows: Tensor, values: Tensor) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Of a table. Raises InvalidRequestError."""
    if rows.dtype != "int64" or values.dtype != "float32":
        raise InvalidRequestError(
            f"rows are {rows.dtype} and values {values.dtype}; needed are int64 and float32", "rows"
        )
    found = _read_array("rows", rows).astype(np.int64, copy=False)
    return found, _read_array("values", values).astype(np.float32, copy=False)


def write_tensor(array: FloatArray) -> Tensor:
    return Tensor("float32", list(array.shape), array.astype("<f4", copy=False).tobytes())


def _read_array(name: str, tensor: Tensor) -> Array:
    shape, size = tensor.shape, ITEM_BYTES.get(tensor.dtype)
    if size is None:
        raise InvalidRequestError(
            f"input {name!r} is {tensor.dtype}; there are {', '.join(ITEM_BYTES)}", name
        )
    if len(shape) > MAX_DIMS or min(shape, default=0) < 0:
        raise InvalidRequestError(
            f"input {name!r} has shape {shape}; it takes at most {MAX_DIMS} sizes, none negative",
            name,
        )
    if len(tensor.data) != (wanted := prod(shape) * size):
        raise InvalidRequestError(
            f"input {name!r} has {len(tensor.data)} bytes; {tensor.dtype} {shape} takes {wanted}",
            name,
        )
    try:
        if tensor.dtype == "int64":
            return np.frombuffer(tensor.data, "<i8").reshape(shape)
        floats: FloatArray = np.frombuffer(tensor.data, "<f4").reshape(shape)
    except ValueError as error:  # without any number, a size may be beyond all bounds
        raise InvalidRequestError(f"input {name!r} has shape {shape}: {error}", name) from error
    if not np.isfinite(floats).all():
        raise InvalidRequestError(f"input {name!r} holds a number that is not finite", name)
    return floats
