"""A decoder's weights in bytes, for machine code that is made for it (services/drafter): those of a
plain Llama, which most small draft models are.

They lie beside the graph, which they are read from when it is exported
(services/verifier/compact.py). A column of weights has one scale, so that logits are nearly the
graph's: good enough to propose tokens, not to verify them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from shared.errors import ModelError

FILE_NAME = "compact.npz"
FORMAT = 1
FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.int8]
Arrays = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Linear:
    """int8 weights [inputs, outputs], and what each output is multiplied by."""

    weights: ByteArray
    scales: FloatArray

    @staticmethod
    def of(weights: FloatArray) -> Linear:
        """Rounded to 127 steps of each column's largest."""
        largest = np.abs(weights).max(axis=0)
        scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        return Linear(np.rint(weights / scales).astype(np.int8), scales)


@dataclass(frozen=True, slots=True)
class Layer:
    """H hidden numbers become H others. Norms are factors [H]."""

    norm: FloatArray
    qkv: Linear
    """[H, (heads + 2 KV heads) x head size]"""
    out: Linear
    """[heads x head size, H]"""
    mlp_norm: FloatArray
    gate_up: Linear
    """[H, 2 x inner]"""
    down: Linear
    """[inner, H]"""


@dataclass(frozen=True, slots=True)
class Compact:
    """A Llama (arXiv:2302.13971): RMS norms, rotary positions, grouped queries, SwiGLU."""

    embedding: Linear
    """[H, V]: the column of each token; the head itself where they are tied."""
    head: Linear
    """[H, V]"""
    norm: FloatArray
    cos: FloatArray
    """[positions, head size / 2], as `sin`."""
    sin: FloatArray
    epsilon: float
    """Of the norms."""
    scale: float
    """Of the products of queries and keys."""
    layers: Sequence[Layer]

    def save(self, folder: Path) -> None:
        """Beside the graph in `folder`."""
        arrays: Arrays = {"format": np.array(FORMAT), "norm": self.norm}
        arrays |= {"cos": self.cos, "sin": self.sin}
        arrays |= {"epsilon": np.array(self.epsilon), "scale": np.array(self.scale)}
        arrays |= {"num_layers": np.array(len(self.layers))}
        arrays |= _named("head", self.head)
        if self.embedding is not self.head:
            arrays |= _named("embedding", self.embedding)
        for number, layer in enumerate(self.layers):
            arrays |= {f"{number}.norm": layer.norm, f"{number}.mlp_norm": layer.mlp_norm}
            for name in ("qkv", "out", "gate_up", "down"):
                arrays |= _named(f"{number}.{name}", getattr(layer, name))
        np.savez(folder / FILE_NAME, allow_pickle=False, **arrays)


def load_compact(folder: Path) -> Compact:
    """What was saved in `folder`. Raises ModelError."""
    path = folder / FILE_NAME
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
        if arrays["format"] != FORMAT:
            raise ModelError(f"{path} has format {arrays['format']}; {FORMAT} is known")
        head = _linear(arrays, "head")
        is_tied = "embedding.weights" not in arrays
        return Compact(
            embedding=head if is_tied else _linear(arrays, "embedding"),
            head=head,
            norm=arrays["norm"],
            cos=arrays["cos"],
            sin=arrays["sin"],
            epsilon=float(arrays["epsilon"]),
            scale=float(arrays["scale"]),
            layers=[_layer(arrays, str(number)) for number in range(int(arrays["num_layers"]))],
        )
    except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


def _named(name: str, linear: Linear) -> Arrays:
    return {f"{name}.weights": linear.weights, f"{name}.scales": linear.scales}


def _linear(arrays: Arrays, name: str) -> Linear:
    return Linear(
        arrays[f"{name}.weights"].astype(np.int8, copy=False),
        arrays[f"{name}.scales"].astype(np.float32, copy=False),
    )


def _layer(arrays: Arrays, name: str) -> Layer:
    return Layer(
        norm=arrays[f"{name}.norm"].astype(np.float32, copy=False),
        qkv=_linear(arrays, f"{name}.qkv"),
        out=_linear(arrays, f"{name}.out"),
        mlp_norm=arrays[f"{name}.mlp_norm"].astype(np.float32, copy=False),
        gate_up=_linear(arrays, f"{name}.gate_up"),
        down=_linear(arrays, f"{name}.down"),
    )
