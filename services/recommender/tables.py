"""Lookups in embedding tables, with pooling: pure.

A pooled vector is summed in the order of its values, whatever else is looked up with it, so that
equal requests get equal bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from services.recommender.layout import Pooling

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.integer]


def look_up(table: FloatArray, rows: IntArray, out: FloatArray) -> None:
    """Rows [n] of a table [num_rows, dim] into `out` [n, dim]; rows must lie within the table."""
    out[...] = table[rows]


def pool(
    table: FloatArray, bags: Sequence[Sequence[int]], pooling: Pooling, out: FloatArray
) -> None:
    """The sum or mean of each bag's rows into `out` [num_bags, dim]; an empty bag is zeros."""
    lengths = np.fromiter((len(bag) for bag in bags), np.intp, len(bags))
    flat = np.fromiter((row for bag in bags for row in bag), np.intp, int(lengths.sum()))
    starts = np.cumsum(lengths) - lengths
    out[...] = 0
    for place in range(int(lengths.max(initial=0))):
        active = np.flatnonzero(lengths > place)
        out[active] += table[flat[starts[active] + place]]
    if pooling == "mean":
        out /= np.maximum(lengths, 1).astype(np.float32)[:, None]
