"""From ids to scores: one gather into the dense graph's inputs, one pass of it.

Knows no names, no bus and no files. Calls block and come from one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.recommender.dense import Dense
from services.recommender.kernel import Kernel
from services.recommender.layout import Layout
from services.recommender.memory import Arena
from services.recommender.wiring import wire

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

SPLIT_ITEMS = 512
"""Items from which on a gather is shared out among the threads: below, to wake one costs more
than it gains."""


@dataclass(frozen=True, slots=True)
class Bags:
    """Ids of a field whose rows are pooled: bag r is ids[bounds[r]:bounds[r + 1]]."""

    ids: IntArray
    bounds: IntArray


@dataclass(frozen=True, slots=True)
class Query:
    """What is to be scored: `num_items` items. Whatever has one row holds for each of them."""

    num_items: int
    blocks: Sequence[tuple[slice, IntArray]]
    """Columns (Engine.columns) and their ids [num_items or 1, columns]."""
    bags: Sequence[Bags] = ()
    """For each of Engine.bags, num_items bags or one."""
    floats: Sequence[FloatArray] = ()
    """For each of the layout's float inputs, [num_items or 1, ...]."""


Piece = tuple[Query, int, int]
"""Of a query, the items from one to below another."""


class Engine:
    """Scores queries in passes of at most `max_rows` items, through the same buffers."""

    def __init__(
        self,
        layout: Layout,
        arena: Arena,
        dense: Path,
        *,
        max_rows: int,
        num_threads: int,
    ) -> None:
        """Raises ModelError for a dense graph that does not fit the layout."""
        wiring = wire(layout)
        self.arena = arena
        self.columns = wiring.columns
        self.bags = wiring.bags
        self.missing_in_bags = np.zeros((len(wiring.bags), 1), np.int64)
        """Ids by bag that were outside of their tables, since the start."""
        self._kernel = Kernel(wiring.program, arena.bytes, layout.distance)
        rows = max(max_rows, 2)
        self._ids = np.zeros((rows, len(wiring.program.columns)), np.int64)
        self._buffers = [np.zeros((rows, output.width), np.float32) for output in layout.outputs]
        floats = [tensor for tensor in layout.inputs if tensor.dtype == "float32"]
        self._floats = [np.zeros((rows, *tensor.shape), np.float32) for tensor in floats]
        self._given: dict[str, tuple[FloatArray, list[int]]] = {
            output.name: (buffer, output.shape)
            for output, buffer in zip(layout.outputs, self._buffers, strict=True)
        }
        self._given |= {t.name: (b, t.shape) for t, b in zip(floats, self._floats, strict=True)}
        self._dense = Dense(
            dense,
            {name: buffer for name, (buffer, _) in self._given.items()},
            {name: shape for name, (_, shape) in self._given.items()},
            num_threads,
        )
        self._hands = [_Hand(self._kernel, self._ids, self._buffers) for _ in range(num_threads)]
        self._threads = ThreadPoolExecutor(max(1, num_threads - 1), "gather")

    def unknown(self) -> dict[str, Callable[[], float]]:
        """For each field, a function that says how many of its ids were outside, so far."""

        def count(columns: slice | None, bags: list[int]) -> float:
            own = self.missing[columns].sum() if columns is not None else 0
            return float(own + self.missing_in_bags[bags].sum())

        fields = dict.fromkeys([*self.columns, *self.bags])
        return {
            name: partial(
                count,
                self.columns.get(name),
                [number for number, own in enumerate(self.bags) if own == name],
            )
            for name in fields
        }

    @property
    def missing(self) -> IntArray:
        """Likewise, by column."""
        total: IntArray = np.sum([hand.missing for hand in self._hands], axis=0)
        return total

    @property
    def outputs(self) -> dict[str, list[int]]:
        """Names of the dense graph's outputs, and their shapes behind the items."""
        arrays = zip(self._dense.names, self._dense.outputs, strict=True)
        return {name: list(array.shape[1:]) for name, array in arrays}

    def require_one_score(self) -> None:
        """Raises ModelError if the dense graph's first output is more than a number an item."""
        self._dense.require_one_score()

    def score(self, queries: Sequence[Query]) -> list[list[FloatArray]]:
        """For each query the dense graph's outputs [num_items, ...], the same bits whatever is
        scored with it."""
        bounds = [0, *accumulate(query.num_items for query in queries)]
        found = [np.empty((bounds[-1], *o.shape[1:]), np.float32) for o in self._dense.outputs]
        row = 0
        for pieces in self._passes(queries):
            for target, output in zip(found, outputs := self._run(pieces), strict=True):
                target[row : row + len(output)] = output
            row += len(outputs[0])
        return [[array[a:b] for array in found] for a, b in pairwise(bounds)]

    def warm_up(self) -> None:
        """A pass of two items that counts for nothing."""
        ids = np.zeros((2, self._ids.shape[1]), np.int64)
        none = Bags(np.zeros(0, np.int64), np.zeros(3, np.int64))
        floats = [np.zeros((2, *buffer.shape[1:]), np.float32) for buffer in self._floats]
        blocks = [(slice(0, ids.shape[1]), ids)]
        self.score([Query(2, blocks, [none] * len(self.bags), floats)])

    def inputs(self, query: Query) -> dict[str, FloatArray]:
        """What the dense graph is given for a query, by the names of its inputs [num_items, ...];
        the graph does not run."""
        parts: dict[str, list[FloatArray]] = {}
        for (piece,) in self._passes([query]):
            self._fill([piece])
            for name, (buffer, shape) in self._given.items():
                rows = buffer[: piece[2] - piece[1]]
                parts.setdefault(name, []).append(rows.reshape(len(rows), *shape).copy())
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    def _passes(self, queries: Sequence[Query]) -> list[list[Piece]]:
        """All items in their order, no more than the buffers hold at a time."""
        passes: list[list[Piece]] = []
        room = 0
        for query in queries:
            start = 0
            while start < query.num_items:
                if room == 0:
                    passes.append([])
                    room = len(self._ids)
                stop = min(query.num_items, start + room)
                passes[-1].append((query, start, stop))
                room -= stop - start
                start = stop
        return passes

    def _run(self, pieces: Sequence[Piece]) -> list[FloatArray]:
        num_rows = self._fill(pieces)
        if num_rows >= self._dense.min_rows:
            return self._dense.run(num_rows)
        for buffer in (*self._buffers, *self._floats):
            buffer[1] = buffer[0]
        return [output[:1] for output in self._dense.run(2)]

    def _fill(self, pieces: Sequence[Piece]) -> int:
        """The dense graph's inputs, of so many rows."""
        row = 0
        for query, start, stop in pieces:
            rows = slice(row, row + stop - start)
            for columns, ids in query.blocks:
                self._ids[rows, columns] = ids if len(ids) == 1 else ids[start:stop]
            for buffer, values in zip(self._floats, query.floats, strict=True):
                buffer[rows] = values if len(values) == 1 else values[start:stop]
            for number, bags in enumerate(query.bags):
                self._pool(number, bags, rows, start, stop)
            row = rows.stop
        self._gather(row)
        return row

    def _pool(self, number: int, bags: Bags, rows: slice, start: int, stop: int) -> None:
        """Into these rows; the one bag that holds for all items is pooled once."""
        reads = self._kernel.program.bags[number].access.reads
        is_shared = len(bags.bounds) == 2
        bounds = bags.bounds if is_shared else bags.bounds[start : stop + 1]
        first = slice(rows.start, rows.start + len(bounds) - 1)
        targets = [
            self._buffers[read.output][first, read.place : read.place + read.dim] for read in reads
        ]
        self._kernel.pool(number, bags.ids, bounds, targets, self.missing_in_bags[number])
        if is_shared and rows.stop > first.stop:
            for read, target in zip(reads, targets, strict=True):
                rest = self._buffers[read.output][first.stop : rows.stop]
                rest[:, read.place : read.place + read.dim] = target

    def _gather(self, num_rows: int) -> None:
        first, *others = self._hands
        if not others or num_rows < SPLIT_ITEMS:
            first.gather(0, num_rows)
            return
        share = -(-num_rows // len(self._hands))
        parts = [(n * share, min(num_rows, (n + 1) * share)) for n in range(len(self._hands))]
        waiting = [
            self._threads.submit(hand.gather, *part)
            for hand, part in zip(others, parts[1:], strict=True)
        ]
        first.gather(*parts[0])
        for future in waiting:
            future.result()


class _Hand:
    """One thread's way to the kernel: addresses, worked out once."""

    def __init__(self, kernel: Kernel, ids: IntArray, buffers: Sequence[FloatArray]) -> None:
        self._kernel = kernel
        self._ids, self._row_bytes = ids.ctypes.data, ids.strides[0]
        self._starts = np.array([buffer.ctypes.data for buffer in buffers], np.int64)
        self._strides = np.array([buffer.strides[0] for buffer in buffers], np.int64)
        self._outputs = self._starts.copy()
        self._outputs_at = self._outputs.ctypes.data
        self.missing = np.zeros(ids.shape[1], np.int64)
        self._missing_at = self.missing.ctypes.data

    def gather(self, start: int, stop: int) -> None:
        """The rows from one to below another."""
        if start:
            np.add(self._starts, start * self._strides, out=self._outputs)
        self._kernel.gather(
            self._ids + start * self._row_bytes, stop - start, self._outputs_at, self._missing_at
        )
