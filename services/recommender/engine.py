"""From ids to scores: what is asked together is cut into slices, and each thread takes one after
the other through the gather and the dense graph.

Knows no names, no bus and no files. Calls block and come from one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from services.recommender.dense import Dense
from services.recommender.hand import Hand, Helper
from services.recommender.kernel import Kernel
from services.recommender.layers import Layers
from services.recommender.layout import Layout
from services.recommender.memory import Arena
from services.recommender.query import Bags, FloatArray, IntArray, Query, Slice, cut
from services.recommender.wiring import wire

SLICE_ROWS = 256
"""At most: what the dense graph computes of a slice stays in its core's second cache."""
WAKING_ROWS, WAKING_ROWS_OF_LAYERS = 12, 64
"""Fewer for each of several threads are scored sooner than another thread has woken, by a graph and
by layers in machine code."""


class Engine:
    """Scores queries by `num_threads` hands, the caller's and those of threads of its own."""

    def __init__(
        self,
        layout: Layout,
        arena: Arena,
        dense: Path,
        layers: Layers | None = None,
        *,
        num_threads: int,
        slice_rows: int = SLICE_ROWS,
    ) -> None:
        """`layers` are those of the dense graph, if it is nothing else. Raises ModelError for one
        that does not fit the layout."""
        wiring = wire(layout)
        self.arena = arena
        self.columns = wiring.columns
        self.bags = wiring.bags
        self._slice_rows = slice_rows
        self._num_columns = len(wiring.program.columns)
        kernel = Kernel(wiring.program, arena.bytes, layout.distance)
        tables = {output.name: tuple(output.shape) for output in layout.outputs}
        floats = {t.name: tuple(t.shape) for t in layout.inputs if t.dtype == "float32"}
        self._floats = list(floats.values())
        self._dense = Dense(dense, {**tables, **floats}, layers)
        self._waking_rows = WAKING_ROWS_OF_LAYERS if self._dense.kernel else WAKING_ROWS
        self._hands = [
            Hand(kernel, self._dense, tables, floats, slice_rows) for _ in range(num_threads)
        ]
        self._helpers = [Helper(hand) for hand in self._hands[1:]]

    @property
    def missing(self) -> IntArray:
        """Ids by column that were outside of their tables, since the start."""
        total: IntArray = np.sum([hand.missing for hand in self._hands], axis=0)
        return total

    @property
    def missing_in_bags(self) -> IntArray:
        """Likewise, by bag."""
        total: IntArray = np.sum([hand.missing_in_bags for hand in self._hands], axis=0)[:, 0]
        return total

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
    def outputs(self) -> dict[str, list[int]]:
        """Names of the dense graph's outputs, and their shapes behind the items."""
        return {name: list(shape) for name, shape in self._dense.outputs.items()}

    def require_one_score(self) -> None:
        """Raises ModelError if the dense graph's first output is more than a number an item."""
        self._dense.require_one_score()

    def score(self, queries: Sequence[Query]) -> list[list[FloatArray]]:
        """For each query the dense graph's outputs [num_items, ...], the same bits whatever is
        scored with it. Raises ModelError, NotFiniteError among them."""
        slices = cut(queries, self._slice_rows, len(self._hands), self._waking_rows)
        if len(slices) == len(queries) == 1:
            return [[output.copy() for output in self._hands[0].score(slices[0].pieces)]]
        bounds = [0, *accumulate(query.num_items for query in queries)]
        found = self._share(deque(slices), bounds[-1])
        return [[array[a:b] for array in found] for a, b in pairwise(bounds)]

    def _share(self, slices: deque[Slice], num_rows: int) -> list[FloatArray]:
        """Among as many hands as there are slices for. Returns the outputs of all rows."""
        found = [np.empty((num_rows, *s), np.float32) for s in self._dense.outputs.values()]
        helpers = self._helpers[: max(0, len(slices) - 1)]
        for helper in helpers:
            helper.begin(slices, found)
        try:
            self._hands[0].work(slices, found)
        finally:
            slices.clear()  # where this one has failed, all has
            failures = [helper.end() for helper in helpers]
        for failure in filter(None, failures):
            raise failure
        return found

    def warm_up(self) -> None:
        """Work for all hands that counts for nothing."""
        num_rows = self._waking_rows * len(self._hands)
        ids = np.zeros((1, self._num_columns), np.int64)
        none = Bags(np.zeros(0, np.int64), np.zeros(2, np.int64))
        floats = [np.zeros((1, *shape), np.float32) for shape in self._floats]
        blocks = [(slice(0, self._num_columns), ids)]
        self.score([Query(num_rows, blocks, [none] * len(self.bags), floats)])

    def inputs(self, query: Query) -> dict[str, FloatArray]:
        """What the dense graph is given for a query, by the names of its inputs [num_items, ...];
        the graph does not run."""
        hand = self._hands[0]
        parts = [hand.inputs(own.pieces) for own in cut([query], self._slice_rows)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
