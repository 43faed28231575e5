"""One thread's way from ids to scores: buffers of a slice's length, which a gather fills and the
dense graph reads while they lie in this core's cache. Calls block."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from threading import Thread

import numpy as np

from services.recommender.dense import Bound, Dense
from services.recommender.kernel import Kernel
from services.recommender.query import Bags, FloatArray, Piece, Slice

_Job = tuple[deque[Slice], Sequence[FloatArray]]


class Hand:
    """Used by one thread at a time."""

    def __init__(
        self,
        kernel: Kernel,
        dense: Dense,
        tables: Mapping[str, tuple[int, ...]],
        floats: Mapping[str, tuple[int, ...]],
        max_rows: int,
    ) -> None:
        """`tables` are the dense graph's inputs that the kernel fills, in its order, and `floats`
        those that queries bring, with shapes of a row."""
        self._kernel = kernel
        num_rows = max(max_rows, 2)
        given = {n: np.zeros((num_rows, *s), np.float32) for n, s in {**tables, **floats}.items()}
        self._given = given
        self._floats = [given[name] for name in floats]
        self._buffers = [given[name].reshape(num_rows, -1) for name in tables]
        self._bound = Bound(dense, given)
        self._min_rows = dense.min_rows
        self._ids = np.zeros((num_rows, len(kernel.program.columns)), np.int64)
        self._outputs = np.array([buffer.ctypes.data for buffer in self._buffers], np.int64)
        self.missing = np.zeros(self._ids.shape[1], np.int64)
        """Ids by column that were outside of their tables, since the start."""
        self.missing_in_bags = np.zeros((len(kernel.program.bags), 1), np.int64)
        """Likewise, by bag."""
        self._told = np.zeros(1, np.int64)
        # To ask an array for its address takes as long as gathering an item.
        addresses = (self._ids, self._outputs, self.missing)
        self._ids_at, self._outputs_at, self._missing_at = (a.ctypes.data for a in addresses)

    def work(self, slices: deque[Slice], found: Sequence[FloatArray]) -> None:
        """Scores one slice after the other, into its rows of the outputs, until none is left.
        Raises ModelError, NotFiniteError among them."""
        while (own := _next(slices)) is not None:
            for target, output in zip(found, self.score(own.pieces), strict=True):
                target[own.row : own.row + len(output)] = output

    def inputs(self, pieces: Sequence[Piece]) -> dict[str, FloatArray]:
        """What the dense graph would be given."""
        num_rows = self._fill(pieces)
        return {name: buffer[:num_rows].copy() for name, buffer in self._given.items()}

    def score(self, pieces: Sequence[Piece]) -> list[FloatArray]:
        """All outputs of the pieces' items, which the next call overwrites. Raises ModelError,
        NotFiniteError among them."""
        num_rows = self._fill(pieces)
        if num_rows >= self._min_rows:
            return self._bound.run(num_rows)
        for buffer in self._given.values():
            buffer[1] = buffer[0]
        return [output[:1] for output in self._bound.run(2)]

    def _fill(self, pieces: Sequence[Piece]) -> int:
        """The dense graph's inputs, of so many rows."""
        row = 0
        for piece in pieces:
            query, start, stop = piece.query, piece.start, piece.stop
            rows = slice(row, row + stop - start)
            for columns, ids in query.blocks:
                self._ids[rows, columns] = ids if len(ids) == 1 else ids[start:stop]
            for buffer, values in zip(self._floats, query.floats, strict=True):
                buffer[rows] = values if len(values) == 1 else values[start:stop]
            for number, bags in enumerate(query.bags):
                self._pool(number, bags, rows, piece)
            row = rows.stop
        self._kernel.gather(self._ids_at, row, self._outputs_at, self._missing_at)
        return row

    def _pool(self, number: int, bags: Bags, rows: slice, piece: Piece) -> None:
        """Into these rows; the one bag that holds for all items is pooled once, and what it misses
        is told by the query's first piece."""
        reads = self._kernel.program.bags[number].access.reads
        is_shared = len(bags.bounds) == 2
        bounds = bags.bounds if is_shared else bags.bounds[piece.start : piece.stop + 1]
        first = slice(rows.start, rows.start + len(bounds) - 1)
        targets = [
            self._buffers[read.output][first, read.place : read.place + read.dim] for read in reads
        ]
        is_told = is_shared and piece.start > 0
        missing = self._told if is_told else self.missing_in_bags[number]
        self._kernel.pool(number, bags.ids, bounds, targets, missing)
        if is_shared and rows.stop > first.stop:
            for read, target in zip(reads, targets, strict=True):
                rest = self._buffers[read.output][first.stop : rows.stop]
                rest[:, read.place : read.place + read.dim] = target


class Helper:
    """A hand's thread beside the caller's. Two queues wake it and the caller in half the time that
    an executor and its futures take."""

    def __init__(self, hand: Hand) -> None:
        self._todo: SimpleQueue[_Job | None] = SimpleQueue()
        self._done: SimpleQueue[Exception | None] = SimpleQueue()
        arguments = (hand, self._todo, self._done)
        Thread(target=_help, args=arguments, name="hand", daemon=True).start()
        weakref.finalize(self, self._todo.put, None)

    def begin(self, slices: deque[Slice], found: Sequence[FloatArray]) -> None:
        """Has the hand work; `end` is to be called next."""
        self._todo.put((slices, found))

    def end(self) -> Exception | None:
        """Waits until the hand has done its work. Returns what it raised."""
        return self._done.get()


def _help(hand: Hand, todo: SimpleQueue[_Job | None], done: SimpleQueue[Exception | None]) -> None:
    while (job := todo.get()) is not None:
        failure: Exception | None = None
        try:
            hand.work(*job)
        except Exception as error:  # whoever waits for it raises it
            failure = error
        done.put(failure)
        del job, failure  # what they hold is not to live until the next one comes


def _next(slices: deque[Slice]) -> Slice | None:
    """Another hand may have taken the last one meanwhile."""
    try:
        return slices.popleft()
    except IndexError:
        return None
