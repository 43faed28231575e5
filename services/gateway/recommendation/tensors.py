"""Numbers of a body as tensors, and back: pure. What fits a model is the recommender's to say."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain
from math import isfinite, prod
from typing import cast

from shared.codec import MAX_MESSAGE_BYTES
from shared.errors import InvalidRequestError
from shared.tensor_messages import Tensor

MAX_DIMS = 8
MAX_NUMBERS = MAX_MESSAGE_BYTES // 4
"""More fit no message, whatever their type."""


def from_lists(name: str, value: object) -> Tensor:
    """Whole numbers are int64, with a fraction among them all are float32. Raises
    InvalidRequestError naming the input."""
    shape, flat = flatten(name, value)
    kinds = set(map(type, flat))
    return of_floats(name, shape, flat) if float in kinds else of_ints(name, shape, flat)


def flatten(name: str, value: object) -> tuple[list[int], list[object]]:
    """Shape and values of lists of lists. Raises InvalidRequestError naming the input."""
    if not isinstance(value, list):
        raise InvalidRequestError(
            f"input {name!r} is {type(value).__name__}; needed is a list of numbers or of lists",
            f"inputs.{name}",
        )
    shape = [len(value)]
    level: list[object] = value
    while level and isinstance(level[0], list):
        if set(map(type, level)) != {list}:
            raise InvalidRequestError(
                f"input {name!r} holds numbers beside lists", f"inputs.{name}"
            )
        lists = [one for one in level if isinstance(one, list)]
        lengths = set(map(len, lists))
        if len(lengths) > 1:
            found = f"{min(lengths)} and {max(lengths)}"
            raise InvalidRequestError(
                f"input {name!r} has lists of {found} values side by side; fill shorter ones up",
                f"inputs.{name}",
            )
        shape += lengths
        if len(shape) > MAX_DIMS:
            raise InvalidRequestError(
                f"input {name!r} is nested deeper than {MAX_DIMS} lists", f"inputs.{name}"
            )
        level = list(chain.from_iterable(lists))
    if len(level) > MAX_NUMBERS:
        raise InvalidRequestError(
            f"input {name!r} has {len(level)} values; at most {MAX_NUMBERS} are taken",
            f"inputs.{name}",
        )
    return shape, level


def of_ints(name: str, shape: Sequence[int], flat: Sequence[object], code: str = "q") -> Tensor:
    """An int64 tensor; `code` is struct's for the integers that are allowed. Raises
    InvalidRequestError naming the input."""
    _require(name, flat, {int}, "whole numbers")
    try:
        data = struct.pack(f"<{len(flat)}{code}", *flat)
    except struct.error as error:
        bits = 8 * struct.calcsize(f"<{code}")
        raise InvalidRequestError(
            f"input {name!r} holds a number beyond {bits} bits", f"inputs.{name}"
        ) from error
    return Tensor("int64", list(shape), data if code == "q" else widened(data))


def of_floats(name: str, shape: Sequence[int], flat: Sequence[object]) -> Tensor:
    """A float32 tensor. Raises InvalidRequestError naming the input."""
    numbers = _require(name, flat, {int, float}, "numbers")
    try:
        data = struct.pack(f"<{len(numbers)}f", *numbers)
        is_finite = all(map(isfinite, numbers))
    except OverflowError as error:
        raise InvalidRequestError(
            f"input {name!r} holds a number that float32 cannot", f"inputs.{name}"
        ) from error
    if not is_finite:
        raise InvalidRequestError(
            f"input {name!r} holds a number that is not finite", f"inputs.{name}"
        )
    return Tensor("float32", list(shape), data)


def widened(data: bytes) -> bytes:
    """int32 as int64, both little-endian."""
    count = len(data) // 4
    return struct.pack(f"<{count}q", *struct.unpack(f"<{count}i", data))


def floats_of(tensor: Tensor) -> list[float]:
    """The values of a float32 tensor, in order."""
    return list(struct.unpack(f"<{prod(tensor.shape)}f", tensor.data))


def best(scores: Sequence[float], k: int) -> list[int]:
    """Places of the k highest, best first; of equal scores the earlier place comes first."""
    return sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[:k]


def _require(name: str, flat: Sequence[object], kinds: set[type], what: str) -> Sequence[float]:
    if strange := set(map(type, flat)) - kinds:
        found = ", ".join(sorted(kind.__name__ for kind in strange))
        raise InvalidRequestError(
            f"input {name!r} holds {found}; needed are {what}", f"inputs.{name}"
        )
    return cast(Sequence[float], flat)
