"""Tensors of a .safetensors file, mapped rather than read: a table may be larger than memory.

The format: eight bytes of length, a JSON header, then the tensors' bytes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shared.errors import ModelError

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
_TYPES = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I64": np.int64, "I32": np.int32}


def map_tensors(file: Path) -> dict[str, npt.NDArray[np.generic]]:
    """By name. Raises ModelError for a file that is broken, or holds another type."""
    size = file.stat().st_size
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise ModelError(f"{file} is no .safetensors file, or is cut off")
        try:
            header = json.loads(content.read(length))
            entries = {name: _entry(e) for name, e in header.items() if name != "__metadata__"}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{file} has a broken header: {error}") from error
    found: dict[str, npt.NDArray[np.generic]] = {}
    for name, (kind, shape, start, stop) in entries.items():
        if kind not in _TYPES:
            raise ModelError(f"{name} of {file} is {kind}; supported are {', '.join(_TYPES)}")
        dtype = np.dtype(_TYPES[kind])
        num_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if min(shape, default=0) < 0 or stop - start != num_bytes or 8 + length + stop > size:
            raise ModelError(f"{name} of {file} is cut off, or not of the size that it says")
        place = 8 + length + start
        found[name] = (
            np.memmap(file, dtype, "r", place, tuple(shape))
            if num_bytes
            else np.empty(shape, dtype)
        )
    return found


def _entry(entry: dict[str, object]) -> tuple[str, list[int], int, int]:
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list):
        raise TypeError("no shape or no offsets")
    start, stop = offsets
    whole = [kind, *shape, start, stop]
    if not isinstance(kind, str) or not all(type(n) is int for n in whole[1:]) or start < 0:
        raise TypeError("no type, or a number that is none")
    return kind, shape, start, stop
