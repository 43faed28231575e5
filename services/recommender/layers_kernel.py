"""Layers in int8 as machine code, made for them when a model is loaded (LLVM).

The same bits as ONNX Runtime's: sums of bytes are exact, and what follows is reckoned in its order.
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache

import numpy as np
import numpy.typing as npt
from llvmlite import binding

from services.recommender.by_tiles import TILE_ROWS
from services.recommender.layer_block import LINE, QUAD, LayerCode
from services.recommender.layers import Layers
from services.recommender.layers_code import LANES, Instructions, row_bytes, write
from shared.jit import compiled

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
NEEDED: dict[Instructions, tuple[str, ...]] = {
    "amx": ("amx-tile", "amx-int8", "avx512f", "avx512bw", "avx512vnni"),
    "vnni": ("avx512f", "avx512bw", "avx512vnni"),
    "avx-vnni": ("avx2", "avxvnni"),
    "avx2": ("avx2",),
}
"""Features of a CPU, the fastest instructions first."""
MAX_WEIGHT = 64
"""With AVX2 two products are added in 16 bits, where 2 x 255 x 64 fit."""
_ARCH_PRCTL, _REQUEST, _TILE_DATA = 158, 0x1023, 18


def usable() -> list[Instructions]:
    """Those that this process may use, the fastest first."""
    if platform.machine() != "x86_64":
        return []
    has = binding.get_host_cpu_features()
    found = [name for name, features in NEEDED.items() if all(has.get(f) for f in features)]
    return [name for name in found if name != "amx" or _may_use_tiles()]


def fastest(layers: Layers) -> Instructions | None:
    """Those for these layers; None: this CPU has none that would be exact."""
    is_narrow = all(np.abs(own.weights.astype(int)).max() <= MAX_WEIGHT for own in layers.layers)
    return next((name for name in usable() if name != "avx2" or is_narrow), None)


@cache
def _may_use_tiles() -> bool:
    """Linux keeps a process from using tiles until it asks to."""
    library = ctypes.CDLL(None, use_errno=True)
    return bool(library.syscall(_ARCH_PRCTL, _REQUEST, _TILE_DATA) == 0)


class LayersKernel:
    """Compiled layers, which each thread runs on a buffer of its own."""

    def __init__(self, layers: Layers, instructions: Instructions) -> None:
        """By instructions that are usable."""
        assert instructions in usable()
        self._lanes = LANES[instructions]
        self._code, self._weights = _packed(layers, self._lanes)
        first = layers.layers[0]
        self.num_inputs = self._code[0].num_inputs
        self.num_outputs = self._code[-1].num_outputs
        scale, triple = float(first.scale), binding.get_default_triple()
        self._engine = compiled(write(self._code, scale, first.zero_point, instructions, triple))
        pointer = ctypes.c_void_p
        kind = ctypes.CFUNCTYPE(None, pointer, pointer, ctypes.c_int64, pointer, ctypes.c_int64)
        self.score = kind(self._engine.get_function_address("score"))
        """Weights, inputs, num_rows, buffer, max_rows, by address; see `write`."""

    @property
    def weights(self) -> int:
        """Their address."""
        return self._weights.ctypes.data

    def buffer(self, max_rows: int) -> tuple[ByteArray, FloatArray]:
        """For so many rows, whole tiles, and where in it their scores [max_rows, outputs] will
        be."""
        *before, size = row_bytes(self._code, self._lanes)
        whole = _aligned(max_rows * (sum(before) + size))
        scores = whole[max_rows * sum(before) :].view(np.float32).reshape(max_rows, size // 4)
        return whole, scores[:, : self.num_outputs]


class BoundLayers:
    """Rows of one thread, and its buffer. Calls block, and hold no interpreter lock."""

    def __init__(self, kernel: LayersKernel, rows: FloatArray) -> None:
        """`rows` float32 [max_rows, num_inputs], contiguous."""
        assert rows.flags.c_contiguous
        assert rows.shape[1:] == (kernel.num_inputs,)
        max_rows = -(-len(rows) // TILE_ROWS) * TILE_ROWS
        self._buffer, self._scores = kernel.buffer(max_rows)
        self._kept = kernel, rows
        # What does not change is made ready for the call, which a lone row would wait for.
        places = (kernel.weights, rows.ctypes.data, self._buffer.ctypes.data)
        self._places = tuple(ctypes.c_void_p(place) for place in places)
        self._max_rows = ctypes.c_int64(max_rows)
        self._score = kernel.score

    def run(self, num_rows: int) -> list[FloatArray]:
        """From the first rows to their scores, which the next run overwrites."""
        weights, rows, buffer = self._places
        self._score(weights, rows, num_rows, buffer, self._max_rows)
        return [self._scores[:num_rows]]


def _packed(layers: Layers, lanes: int) -> tuple[list[LayerCode], ByteArray]:
    """All weights in the order in which they are read, and where each layer's lie."""
    parts: list[tuple[int, npt.NDArray[np.generic]]] = []
    code, place = [], 0

    def put(part: npt.NDArray[np.generic]) -> int:
        nonlocal place
        start, place = place, place + -(-part.nbytes // LINE) * LINE
        parts.append((start, part))
        return start

    for number, layer in enumerate(layers.layers):
        num_inputs, num_outputs = layer.weights.shape
        depth, width = -(-num_inputs // LINE) * LINE, -(-num_outputs // lanes) * lanes
        weights = np.zeros((depth, width), np.int8)
        weights[:num_inputs, :num_outputs] = layer.weights
        blocks = weights.reshape(depth // QUAD, QUAD, width // lanes, lanes)
        following = layers.layers[number + 1 : number + 2]
        code.append(
            LayerCode(
                num_inputs,
                num_outputs,
                weights=put(np.ascontiguousarray(blocks.transpose(2, 0, 3, 1))),
                sums=put(np.pad(layer.sums, (0, width - num_outputs))),
                factors=put(np.pad(layers.factors(number), (0, width - num_outputs))),
                zero_point=following[0].zero_point if following else None,
            )
        )
    whole = _aligned(place)
    for start, part in parts:
        whole[start : start + part.nbytes] = part.reshape(-1).view(np.uint8)
    return code, whole


def _aligned(num_bytes: int) -> ByteArray:
    """Zeros from the start of a cache line on."""
    whole = np.zeros(num_bytes + LINE, np.uint8)
    start = -whole.ctypes.data % LINE
    return whole[start : start + num_bytes]
