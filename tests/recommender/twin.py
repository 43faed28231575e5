"""The gather in plain numpy, every access checked: what the kernel must equal, bit for bit."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence

import numpy as np

from services.recommender.kernel import Kernel, hashed_rows
from services.recommender.program import Access, Bag, Column, Program, Read, vector_bytes

Floats = np.ndarray


def resolve(arena: np.ndarray, ids: np.ndarray, column: Column) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and which ids are outside of the table."""
    outside = (ids < 0) | (ids >= column.num_rows)
    instead = {
        "zero": np.zeros_like(ids),
        "default": np.full_like(ids, column.default_row),
        "hash": hashed_rows(ids, column.num_rows),
    }[column.fallback]
    known = np.where(outside, instead, ids)
    if column.order is None:
        return known, outside
    raw = arena[column.order : column.order + 4 * column.num_rows]
    return np.ascontiguousarray(raw).view(np.int32)[known].astype(np.int64), outside


def vectors(arena: np.ndarray, access: Access, read: Read, rows: np.ndarray) -> Floats:
    """Of these rows of an access [n, dim]; asserts that they lie in the arena."""
    size = vector_bytes(read.dim, access.element)
    starts = access.base + rows * access.stride + read.offset
    assert (starts >= 0).all()
    assert (starts + size <= len(arena)).all()
    raw = arena[starts[:, None] + np.arange(size)]
    if access.element == "int8":
        scale = np.ascontiguousarray(raw[:, :4]).view(np.float32)
        return raw[:, 4 : 4 + read.dim].view(np.int8).astype(np.float32) * scale
    kind = np.float32 if access.element == "fp32" else np.float16
    return np.ascontiguousarray(raw).view(kind).astype(np.float32)


def gather(program: Program, arena: np.ndarray, ids: np.ndarray) -> tuple[list[Floats], np.ndarray]:
    """Outputs, and how many ids of each column were outside."""
    outputs = [np.zeros((len(ids), width), np.float32) for width in program.widths]
    rows, outside = np.zeros_like(ids), np.zeros(ids.shape, bool)
    for number, column in enumerate(program.columns):
        rows[:, number], outside[:, number] = resolve(arena, ids[:, number], column)
    for access in program.accesses:
        row = sum((rows[:, c] * radix for c, radix in access.radices.items()), np.int64(0))
        for read in access.reads:
            found = vectors(arena, access, read, np.broadcast_to(row, len(ids)))
            if program.columns[read.column].fallback == "zero":
                found = np.where(outside[:, read.column, None], np.float32(0), found)
            outputs[read.output][:, read.place : read.place + read.dim] = found
    return outputs, outside.sum(axis=0)


def pool(bag: Bag, arena: np.ndarray, bags: Sequence[np.ndarray]) -> tuple[list[Floats], int]:
    """For each read, the bags' sums or means, added up in the order of their ids."""
    num_outside = 0
    totals = [np.zeros((len(bags), read.dim), np.float32) for read in bag.access.reads]
    for number, ids in enumerate(bags):
        rows, outside = resolve(arena, ids, bag.column)
        num_outside += int(outside.sum())
        for total, read in zip(totals, bag.access.reads, strict=True):
            for found, is_out in zip(
                vectors(arena, bag.access, read, rows * read.radix), outside, strict=True
            ):
                if not (is_out and bag.column.fallback == "zero"):
                    total[number] += found
            if bag.is_mean:
                total[number] /= np.float32(max(1, len(ids)))
    return totals, num_outside


def run_kernel(kernel: Kernel, ids: np.ndarray) -> tuple[list[Floats], np.ndarray]:
    """The kernel's outputs and counts, from arrays."""
    ids = np.ascontiguousarray(ids, np.int64)
    outputs = [np.full((len(ids), w), np.nan, np.float32) for w in kernel.program.widths]
    places = np.array([output.ctypes.data for output in outputs], np.int64)
    missing = np.zeros(len(kernel.program.columns), np.int64)
    kernel.gather(ids.ctypes.data, len(ids), places.ctypes.data, missing.ctypes.data)
    return outputs, missing


class Guarded:
    """An arena of exactly `size` bytes that begins or ends where memory does: to read a byte
    beyond it ends the process."""

    def __init__(self, size: int, at_the_end: bool) -> None:
        page = mmap.PAGESIZE
        pages = -(-size // page)
        self._region = mmap.mmap(-1, (pages + 2) * page)
        whole = np.frombuffer(self._region, np.uint8)
        start = (pages + 1) * page - size if at_the_end else page
        self.bytes = whole[start : start + size]
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for first in (0, pages + 1):
            assert protect(whole.ctypes.data + first * page, page, 0) == 0
