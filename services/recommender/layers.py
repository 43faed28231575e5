"""A dense part that is nothing but layers in int8, one after the other: pure.

Such a graph reads one input, turns it into bytes, and each layer multiplies bytes, adds its bias
and turns sums back into bytes, the last one into scores. `quantize.py` writes it down beside the
graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from shared.errors import ModelError

FloatArray = npt.NDArray[np.float32]
_KINDS = (np.dtype(np.int8), 2), (np.dtype(np.float32), 1), (np.dtype(np.int32), 1)
"""Of weights, their scales and biases."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """From unsigned bytes [rows, inputs] to those of the next layer, or to scores. What it reads
    stands for (byte - zero_point) * scale."""

    scale: np.float32
    zero_point: int
    weights: npt.NDArray[np.int8]
    """[inputs, outputs], each column to be multiplied by its scale."""
    weight_scales: FloatArray
    bias: npt.NDArray[np.int32]
    """In units of a product of the two scales."""

    @property
    def sums(self) -> npt.NDArray[np.int32]:
        """What the products of bytes are to be added to, [outputs], the zero point included."""
        products = self.weights.sum(0, dtype=np.int32) * np.int32(self.zero_point)
        sums: npt.NDArray[np.int32] = self.bias - products
        return sums


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """All of a graph, of one input and one output."""

    layers: tuple[Layer, ...]

    def factors(self, number: int) -> FloatArray:
        """By which a layer's sums become what the next one reads, or scores: float32 [outputs], as
        ONNX Runtime reckons them, rounding after each step."""
        own = self.layers[number]
        factors: FloatArray = own.scale * own.weight_scales
        following = self.layers[number + 1 : number + 2]
        return factors / following[0].scale if following else factors

    def problems(self) -> list[str]:
        """Sentences on what cannot be right, none for sound layers."""
        if not self.layers:
            return ["there are none"]
        found: list[str] = []
        width = self.layers[0].weights.shape[0]
        for number, own in enumerate(self.layers):
            arrays = own.weights, own.weight_scales, own.bias
            if tuple((a.dtype, a.ndim) for a in arrays) != _KINDS or not own.weights.size:
                return [
                    *found,
                    f"layer {number} is not of int8 weights, float32 scales, int32 bias",
                ]
            if own.weights.shape[0] != width:
                found.append(f"layer {number} does not read what the one before writes")
            width = own.weights.shape[1]
            if {len(own.weight_scales), len(own.bias)} != {width}:
                found.append(f"layer {number} has a scale or bias too many or too few")
            if not 0 <= own.zero_point <= 255 or not np.isfinite(own.scale) or own.scale <= 0:
                found.append(f"layer {number} has no sound scale or zero point")
        return found

    def save(self, file: Path) -> None:
        """Writes the file, an .npz of arrays."""
        arrays: dict[str, Any] = {
            f"{number}.{name}": np.asarray(getattr(own, name))
            for number, own in enumerate(self.layers)
            for name in Layer.__slots__
        }
        np.savez(file, **arrays)


def read_layers(file: Path) -> Layers:
    """What `Layers.save` wrote. Raises ModelError."""
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as arrays:
            number = len({name.partition(".")[0] for name in arrays})
            layers = Layers(tuple(_layer(arrays, place) for place in range(number)))
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise ModelError(f"{file} holds no layers: {error}") from error
    for problem in layers.problems():
        raise ModelError(f"{file}: {problem}")
    return layers


def _layer(arrays: Mapping[str, npt.NDArray[Any]], number: int) -> Layer:
    scale, zero_point, *rest = (arrays[f"{number}.{name}"] for name in Layer.__slots__)
    return Layer(np.float32(scale), int(zero_point), *rest)
