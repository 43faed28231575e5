"""Rows in the order of how often they are read, so that hot rows share pages and cache lines: pure.

An id then reads another row than that of its number, and which it is, is looked up first: 4 bytes
an id, of which each hot one takes a cache line as a narrow row would, so that wide rows gain
(benchmarks/sorting.py). All tables that a field reads are sorted alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from services.recommender.layout import Field, Layout, Lookup
from services.recommender.program import ORDER_BYTES
from shared.errors import ModelError

IntArray = npt.NDArray[np.int64]
MIN_ROW_BYTES = 128
"""Of rows that gain more than their order costs (benchmarks/sorting.py)."""
Order = npt.NDArray[np.int32]
"""The row that each id reads [num_rows]."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How often each id of a field is read [num_rows], by field; which rows are wide enough."""

    by_field: Mapping[str, IntArray] = field(default_factory=dict)
    min_row_bytes: int = MIN_ROW_BYTES


NO_COUNTS = Counts()


def orders_by_frequency(
    fields: Sequence[Field],
    lookups: Sequence[Lookup],
    row_bytes: Mapping[str, int],
    counts: Counts,
) -> list[tuple[list[str], Order]]:
    """For each set of fields that read the same tables, of which any has counts, and any table has
    wide rows as it is stored (`row_bytes`), their one order. Raises ModelError."""
    by_name = {field.name: field for field in fields}
    if unknown := sorted(counts.by_field.keys() - by_name.keys()):
        raise ModelError(f"counts of {', '.join(unknown)}; the fields are {', '.join(by_name)}")
    found = []
    for names in _sets(fields, lookups):
        own = [counts.by_field[name] for name in names if name in counts.by_field]
        num_rows = by_name[names[0]].num_rows
        if wrong := [len(array) for array in own if len(array) != num_rows]:
            raise ModelError(f"{wrong[0]} counts for the {num_rows} ids of {', '.join(names)}")
        widest = max((row_bytes[x.table] for x in lookups if x.field in names), default=0)
        if own and widest >= counts.min_row_bytes:
            found.append((names, by_frequency(np.sum(own, axis=0))))
    return found


def by_frequency(counts: IntArray) -> Order:
    """The most read come first; of equals, the lower id."""
    order = np.empty(len(counts), np.int32)
    order[np.argsort(-counts, kind="stable")] = np.arange(len(counts), dtype=np.int32)
    return order


def _sets(fields: Iterable[Field], lookups: Iterable[Lookup]) -> list[list[str]]:
    """Fields that read a common table, directly or through others, together."""
    sets = {field.name: [field.name] for field in fields}
    first: dict[str, str] = {}
    for lookup in lookups:
        one = sets[first.setdefault(lookup.table, lookup.field)]
        other = sets[lookup.field]
        if one is not other:
            one += other
            sets |= dict.fromkeys(other, one)
    return [names for name, names in sets.items() if names[0] == name]


def orders_in(layout: Layout, arena: npt.NDArray[np.uint8]) -> dict[str, Order]:
    """By table, of those that are sorted. Raises ModelError for one that leads out of its table,
    which the gather would follow."""
    found: dict[str, Order] = {}
    for table in layout.tables:
        start = layout.order_of(table.name)
        if start is None:
            continue
        order = arena[start : start + ORDER_BYTES * table.num_rows].view("<i4").view(np.int32)
        if len(order) < table.num_rows or (order < 0).any() or (order >= table.num_rows).any():
            raise ModelError(f"the order of table {table.name} leads out of its rows")
        found[table.name] = order
    return found
