"""Vectors as they are stored: pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from services.recommender.program import Element, vector_bytes
from shared.errors import ModelError

Bytes = npt.NDArray[np.uint8]


def pack(values: npt.NDArray[np.float32], element: Element) -> Bytes:
    """Vectors [n, dim] as they are stored [n, bytes]. int8: the largest value of a vector is 127
    steps, and the step comes first."""
    if element != "int8":
        kind = np.float32 if element == "fp32" else np.float16
        with np.errstate(over="ignore"):
            packed = np.ascontiguousarray(values, kind)
        if not np.isfinite(packed).all():
            raise ModelError("a table holds values that float16 cannot")
        return packed.view(np.uint8).reshape(len(values), -1)
    steps = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
    whole = np.rint(values / np.where(steps > 0, steps, 1)).astype(np.int8)
    packed_rows = np.zeros((len(values), vector_bytes(values.shape[1], "int8")), np.uint8)
    packed_rows[:, :4] = np.ascontiguousarray(steps, np.float32).view(np.uint8)
    packed_rows[:, 4 : 4 + values.shape[1]] = whole.view(np.uint8)
    return packed_rows
