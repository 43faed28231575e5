"""The tables of a model in a process's own memory, on huge pages where the machine gives them."""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.peers_recommender.worker import FloatArray, IntArray

HUGE_PAGE = 2 << 20


@dataclass(frozen=True, slots=True)
class Fused:
    """Neighbouring tables of one width, one behind the other."""

    tables: slice
    rows: FloatArray
    firsts: IntArray
    """Where each table begins."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Each table, and in the same memory those of one width together."""

    arrays: list[FloatArray]
    fused: list[Fused]

    @property
    def width(self) -> int:
        """Of an item."""
        return sum(array.shape[1] for array in self.arrays)


def map_tables(folder: Path) -> list[FloatArray]:
    """All .npy files of the folder, in the order of their names."""
    return [np.load(file, mmap_mode="r") for file in sorted(folder.glob("*.npy"))]


def load_tables(folder: Path) -> Tables:
    """Copies of them."""
    files = map_tables(folder)
    values = memory(sum(file.size for file in files))
    arrays: list[FloatArray] = []
    fused = []
    start = 0
    for dim, group in itertools.groupby(files, key=lambda file: file.shape[1]):
        first, begin, heights = len(arrays), start, [0]
        for file in group:
            arrays.append(values[start : start + file.size].reshape(-1, dim))
            arrays[-1][:] = file
            heights.append(heights[-1] + len(file))
            start += file.size
        rows = values[begin:start].reshape(-1, dim)
        fused.append(Fused(slice(first, len(arrays)), rows, np.array(heights[:-1], np.int64)))
    return Tables(arrays, fused)


def columns(ids: IntArray) -> Sequence[IntArray]:
    """The ids of each table, contiguous."""
    return list(np.ascontiguousarray(ids.T))


def memory(num_values: int) -> FloatArray:
    """Of this process, on huge pages."""
    # Not the default flags: shared anonymous memory has no huge pages on many machines.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    region = mmap.mmap(-1, num_values * 4 + HUGE_PAGE, flags=flags)
    region.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(region, np.uint8)
    first = -whole.ctypes.data % HUGE_PAGE
    return whole[first : first + num_values * 4].view(np.float32)
