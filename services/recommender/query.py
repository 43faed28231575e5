"""What is to be scored, and how it is cut into slices: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


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


class Piece(NamedTuple):
    """Of a query, the items from one to below another."""

    query: Query
    start: int
    stop: int


class Slice(NamedTuple):
    """What one hand scores at a time."""

    row: int
    """Of all that is scored together, the first."""
    pieces: list[Piece]


def cut(
    queries: Sequence[Query], max_rows: int, num_hands: int = 1, waking_rows: int = 1
) -> list[Slice]:
    """All items in their order, as evenly as so many hands can share them. Less than `waking_rows`
    for each of two hands is for one."""
    num_rows = sum([query.num_items for query in queries])
    if 0 < num_rows <= max_rows and (num_hands == 1 or num_rows < 2 * waking_rows):
        return [Slice(0, [Piece(query, 0, query.num_items) for query in queries])]
    fewest = -(-num_rows // max_rows)
    even = -(-fewest // num_hands) * num_hands
    size = -(-num_rows // max(1, fewest, min(even, num_rows // waking_rows)))
    slices: list[Slice] = []
    room = 0
    for query in queries:
        start = 0
        while start < query.num_items:
            if room == 0:
                slices.append(Slice(len(slices) * size, []))
                room = size
            stop = min(query.num_items, start + room)
            slices[-1].pieces.append(Piece(query, start, stop))
            room -= stop - start
            start = stop
    return slices
