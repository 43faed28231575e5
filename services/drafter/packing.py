"""A Llama's weights in the order in which its machine code reads them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from services.drafter.linear_code import QUAD, ZERO, LinearCode, panels
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

    def __init__(self, width: int, *, has_dots: bool) -> None:
        self._width = width
        self._num_together = QUAD if has_dots else 1
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

    def linear(self, linear: Linear) -> LinearCode:
        num_inputs, num_outputs = linear.weights.shape
        num_columns = -(-num_outputs // self._width) * self._width
        missing = num_columns - num_outputs
        weights = np.pad(linear.weights, ((0, 0), (0, missing)))
        # Of so many inputs, each column's lie together.
        quads = weights.reshape(-1, self._num_together, num_columns).transpose(0, 2, 1)
        blocks = [
            quads[:, start * self._width : (start + part.step) * self._width].reshape(-1)
            for part in panels(num_columns // self._width)
            for start in part
        ]
        return LinearCode(
            num_inputs,
            num_columns,
            weights=self.put(np.concatenate(blocks)),
            scales=self.put(np.pad(linear.scales, (0, missing))),
            sums=self.put(-ZERO * weights.sum(axis=0, dtype=np.int32)),
        )


def pack(
    compact: Compact, manifest: Manifest, width: int, *, has_dots: bool
) -> tuple[LlamaShape, npt.NDArray[np.uint8]]:
    """All weights in the order in which they are read, and where they lie."""
    packer = _Packer(width, has_dots=has_dots)
    starts = []
    for layer in compact.layers:
        first = packer.size
        starts.append(
            LayerCode(
                norm=packer.put(layer.norm),
                qkv=packer.linear(layer.qkv),
                out=packer.linear(layer.out),
                mlp_norm=packer.put(layer.mlp_norm),
                gate_up=packer.linear(layer.gate_up),
                down=packer.linear(layer.down),
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
        head=packer.linear(compact.head),
        embedding=packer.put(np.ascontiguousarray(compact.embedding.weights.T)),
        embedding_scales=packer.put(compact.embedding.scales),
        cos=packer.put(compact.cos[: manifest.max_context]),
        sin=packer.put(compact.sin[: manifest.max_context]),
    )
    return shape, packer.packed()
