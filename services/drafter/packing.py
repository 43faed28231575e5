"""A Llama's weights in the order in which its machine code reads them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from services.drafter.linear_code import LinearCode, panels
from services.drafter.llama_code import LayerCode, LlamaShape
from shared.lm.compact import Compact, Linear
from shared.lm.manifest import Manifest

LINE = 64
"""Bytes of a cache line, at which each part begins."""
NARROWEST_HEAD, NARROWEST = 32, 16
"""What sizes are multiples of, those of heads, whose halves are vectors, and all others."""


def fits(compact: Compact, manifest: Manifest) -> bool:
    """Whether sizes are whole vectors, as those of nearly all models are, and all layers' the
    same."""
    sizes = {(len(layer.norm), layer.down.weights.shape[0]) for layer in compact.layers}
    if len(sizes) != 1 or manifest.head_size % NARROWEST_HEAD:
        return False
    return all(size % NARROWEST == 0 for size in sizes.pop())


class _Packer:
    """Puts parts one behind the other."""

    def __init__(self) -> None:
        self.parts: list[tuple[int, npt.NDArray[np.generic]]] = []
        self.size = 0

    def put(self, part: npt.NDArray[np.generic]) -> int:
        start, self.size = self.size, self.size + -(-part.nbytes // LINE) * LINE
        self.parts.append((start, part))
        return start

    def packed(self) -> npt.NDArray[np.uint8]:
        """From the start of a line on."""
        whole = np.zeros(self.size + LINE, np.uint8)
        first = -whole.ctypes.data % LINE
        whole = whole[first : first + self.size]
        for start, part in self.parts:
            whole[start : start + part.nbytes] = part.reshape(-1).view(np.uint8)
        return whole

    def linear(self, linear: Linear, width: int) -> LinearCode:
        num_inputs, num_outputs = linear.weights.shape
        num_columns = -(-num_outputs // width) * width
        weights = np.zeros((num_inputs, num_columns), np.int8)
        weights[:, :num_outputs] = linear.weights
        blocks = [
            weights[:, start * width : (start + part.step) * width].reshape(-1)
            for part in panels(num_columns // width)
            for start in part
        ]
        scales = np.pad(linear.scales, (0, num_columns - num_outputs))
        return LinearCode(
            num_inputs, num_columns, self.put(np.concatenate(blocks)), self.put(scales)
        )


def pack(
    compact: Compact, manifest: Manifest, width: int
) -> tuple[LlamaShape, npt.NDArray[np.uint8]]:
    """All weights in the order in which they are read, and where they lie."""
    packer = _Packer()
    starts = []
    for layer in compact.layers:
        first = packer.size
        starts.append(
            LayerCode(
                norm=packer.put(layer.norm),
                qkv=packer.linear(layer.qkv, width),
                out=packer.linear(layer.out, width),
                mlp_norm=packer.put(layer.mlp_norm),
                gate_up=packer.linear(layer.gate_up, width),
                down=packer.linear(layer.down, width),
            )
        )
    layer_bytes = packer.size - first
    shape = LlamaShape(
        num_layers=len(compact.layers),
        hidden=len(compact.norm),
        num_heads=manifest.num_heads,
        num_kv_heads=manifest.num_kv_heads,
        head_size=manifest.head_size,
        inner=compact.layers[0].down.weights.shape[0],
        vocab_size=manifest.vocab_size,
        max_context=-(-manifest.max_context // width) * width,
        epsilon=compact.epsilon,
        scale=compact.scale,
        layer=starts[0],
        layer_bytes=layer_bytes,
        norm=packer.put(compact.norm),
        head=packer.linear(compact.head, width),
        embedding=packer.put(np.ascontiguousarray(compact.embedding.weights.T)),
        embedding_scales=packer.put(compact.embedding.scales),
        cos=packer.put(compact.cos[: manifest.max_context]),
        sin=packer.put(compact.sin[: manifest.max_context]),
    )
    return shape, packer.packed()
