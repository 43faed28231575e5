"""The KV cache of the in-place decoder: where it lies, and how a pass gets the slots that it needs.

In host memory numpy copies, on a GPU CUDA's runtime. The tests of the GPU's half put host memory in
a GPU's place; benchmarks/gpu.py runs it on one.
"""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from shared.errors import ModelError
from shared.lm.decoder import Device
from shared.lm.manifest import Manifest

Array = npt.NDArray[Any]


class Caches(Protocol):
    """One buffer [slots, KV heads, length, head size] for each layer's keys and its values."""

    length: int
    keeps_memory: bool
    """So that another length costs no more than to copy what is kept."""

    def bind(self, binding: onnxruntime.IOBinding, low: int, high: int) -> None:
        """The slots from `low` to `high` as input and as output: updated in place, no copy."""

    def move(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` tokens of a slot into another slot."""

    def read(self, slot: int, start: int, end: int) -> Array:
        """Tokens `start` to `end` of a slot: [layers x 2, KV heads, tokens, head size]."""

    def write(self, slot: int, start: int, block: Array) -> None:
        """Puts what `read` gave into a slot, from token `start` on."""

    def resize(self, length: int, num_slots: int) -> None:
        """Makes the buffers `length` long, keeping what the first `num_slots` slots hold, as far as
        it fits. Bindings are to be made anew."""


def make_caches(manifest: Manifest, max_slots: int, device: Device) -> Caches:
    """Empty caches; `resize` comes first. Raises ModelError."""
    if device == "cuda":
        return DeviceCaches(manifest, max_slots, CudaMemory())
    return HostCaches(manifest, max_slots)


def _names(manifest: Manifest) -> list[str]:
    layers = range(manifest.num_layers)
    return [f"past_key_values.{layer}.{part}" for layer in layers for part in ("key", "value")]


def _dtype(manifest: Manifest) -> np.dtype[Any]:
    return np.dtype(np.float16 if manifest.precision == "half" else np.float32)


def _present(name: str) -> str:
    return name.replace("past_key_values", "present")


class HostCaches:
    """Caches in numpy arrays.

    What was in memory once stays: fresh pages cost several times what the copy into them does. One
    piece more than there are buffers is held, so that each can be copied to where another was.
    """

    keeps_memory = True

    def __init__(self, manifest: Manifest, max_slots: int) -> None:
        self.length = 0
        self._names = _names(manifest)
        self._num_slots, self._num_heads = max_slots, manifest.num_kv_heads
        self._head_size = manifest.head_size
        self._memory: list[Array] = [np.zeros(0, _dtype(manifest)) for _ in self._names]
        self._spare = self._memory[0]
        self._buffers = [self._shaped(memory, 0) for memory in self._memory]

    def bind(self, binding: onnxruntime.IOBinding, low: int, high: int) -> None:
        for name, buffer in zip(self._names, self._buffers, strict=True):
            value = onnxruntime.OrtValue.ortvalue_from_numpy(buffer[low : high + 1])
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(_present(name), value)

    def move(self, source: int, target: int, length: int) -> None:
        for buffer in self._buffers:
            buffer[target, :, :length] = buffer[source, :, :length]

    def read(self, slot: int, start: int, end: int) -> Array:
        return np.stack([buffer[slot, :, start:end] for buffer in self._buffers])

    def write(self, slot: int, start: int, block: Array) -> None:
        for buffer, part in zip(self._buffers, block, strict=True):
            buffer[slot, :, start : start + part.shape[1]] = part

    def resize(self, length: int, num_slots: int) -> None:
        kept = min(length, self.length)
        size = self._num_slots * self._num_heads * length * self._head_size
        for place, memory in enumerate(self._memory):
            target = self._spare
            if len(target) < size:
                # Of zeros: what the mask hides is still multiplied, and may not be infinite.
                target = np.zeros(max(size, 2 * len(memory)), memory.dtype)
            new = self._shaped(target, length)
            new[:num_slots, :, :kept] = self._buffers[place][:num_slots, :, :kept]
            self._buffers[place], self._memory[place], self._spare = new, target, memory
        self.length = length

    def _shaped(self, memory: Array, length: int) -> Array:
        """The beginning of a piece of memory as a buffer."""
        shape = (self._num_slots, self._num_heads, length, self._head_size)
        return memory[: prod(shape)].reshape(shape)


class CudaMemory:
    """Copies within the first GPU, to it and from it, by the CUDA runtime that onnxruntime itself
    uses."""

    device = "cuda"
    _BY_ADDRESS = 4
    """cudaMemcpyDefault: the addresses tell where they lie."""

    def __init__(self) -> None:
        major = onnxruntime.cuda_version.partition(".")[0]
        try:
            self._runtime = ctypes.CDLL(f"libcudart.so.{major}")
        except OSError as error:
            raise ModelError(f"CUDA's runtime cannot be loaded: {error}") from error

    def copy(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, rows: int
    ) -> None:
        """Copies `rows` times `width` bytes between addresses that are a pitch apart each time."""
        sizes = [ctypes.c_size_t(size) for size in (target_pitch, source_pitch, width, rows)]
        self._check(
            self._runtime.cudaMemcpy2D(
                *(ctypes.c_void_p(target), sizes[0], ctypes.c_void_p(source)),
                *(*sizes[1:], self._BY_ADDRESS),
            )
        )

    def finish(self) -> None:
        """Returns when all is copied. Raises ModelError."""
        # A copy within the device returns early, and onnxruntime's streams do not wait for it.
        self._check(self._runtime.cudaDeviceSynchronize())

    def _check(self, status: int) -> None:
        if status:
            raise ModelError(f"CUDA error {status} while a KV cache was copied")


class DeviceCaches:
    """Caches in onnxruntime's memory on a GPU, reached by address: its values know no slices."""

    keeps_memory = False

    def __init__(self, manifest: Manifest, max_slots: int, memory: CudaMemory) -> None:
        self.length = 0
        self._memory = memory
        self._dtype = _dtype(manifest)
        self._names = _names(manifest)
        self._num_slots, self._num_heads = max_slots, manifest.num_kv_heads
        self._head_size = manifest.head_size
        self._buffers: list[Any] = []

    def bind(self, binding: onnxruntime.IOBinding, low: int, high: int) -> None:
        shape = self._shape(high + 1 - low, self.length)
        for name, buffer in zip(self._names, self._buffers, strict=True):
            place = (
                *(self._memory.device, 0, self._dtype.type, shape),
                buffer.data_ptr() + low * self._num_heads * self._pitch(self.length),
            )
            binding.bind_input(name, *place)
            binding.bind_output(_present(name), *place)

    def move(self, source: int, target: int, length: int) -> None:
        pitch = self._pitch(self.length)
        slot = self._num_heads * pitch
        for buffer in self._buffers:
            start = buffer.data_ptr()
            self._memory.copy(
                *(start + target * slot, pitch, start + source * slot, pitch),
                *(self._pitch(length), self._num_heads),
            )
        self._memory.finish()

    def read(self, slot: int, start: int, end: int) -> Array:
        shape = (len(self._buffers), self._num_heads, end - start, self._head_size)
        block = np.empty(shape, self._dtype)
        width = self._pitch(end - start)
        for part, place in zip(block, self._places(slot, start), strict=True):
            self._memory.copy(
                *(part.ctypes.data, width, place, self._pitch(self.length)),
                *(width, self._num_heads),
            )
        self._memory.finish()
        return block

    def write(self, slot: int, start: int, block: Array) -> None:
        width = self._pitch(block.shape[2])
        for part, place in zip(block, self._places(slot, start), strict=True):
            self._memory.copy(
                *(place, self._pitch(self.length), part.ctypes.data, width),
                *(width, self._num_heads),
            )
        self._memory.finish()

    def resize(self, length: int, num_slots: int) -> None:
        # Zeros: what the mask hides is still multiplied, and may not be infinite.
        zeros = np.zeros(self._shape(self._num_slots, length), self._dtype)
        buffers = [
            onnxruntime.OrtValue.ortvalue_from_numpy(zeros.copy(), self._memory.device, 0)
            for _ in self._names
        ]
        pitch, old_pitch = self._pitch(length), self._pitch(self.length)
        kept, rows = min(pitch, old_pitch), num_slots * self._num_heads
        for new, old in zip(buffers, self._buffers, strict=False):
            self._memory.copy(new.data_ptr(), pitch, old.data_ptr(), old_pitch, kept, rows)
        self._memory.finish()
        self._buffers, self.length = buffers, length

    def _places(self, slot: int, start: int) -> list[int]:
        """The address of token `start` of a slot's first head, in each buffer."""
        offset = slot * self._num_heads * self._pitch(self.length) + self._pitch(start)
        return [buffer.data_ptr() + offset for buffer in self._buffers]

    def _shape(self, num_slots: int, length: int) -> tuple[int, int, int, int]:
        return (num_slots, self._num_heads, length, self._head_size)

    def _pitch(self, length: int) -> int:
        """Bytes of so many tokens of one head."""
        return length * self._head_size * self._dtype.itemsize
