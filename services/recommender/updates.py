"""New rows for tables of a model that is being served.

A table may be stored several times over: in a product, every row of it recurs with each row of the
others. A write reaches them all. It is to come from the thread that scores: a gather then sees a
row as it was or as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.recommender.layout import Layout, Table
from services.recommender.packing import Bytes, pack
from services.recommender.program import Element, vector_bytes
from services.recommender.sorting import orders_in
from shared.errors import InvalidRequestError, ModelError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a table's vectors are: bytes [outer, num_rows, radix, size], a view of the arena."""

    table: Table
    element: Element
    vectors: Bytes


class Rows:
    """Writes rows into a model's arena."""

    def __init__(self, layout: Layout, arena: Bytes) -> None:
        tables = {table.name: table for table in layout.tables}
        self._places: dict[str, _Place] = {}
        self._orders = orders_in(layout, arena)
        for stored in layout.stored:
            whole = arena[stored.offset : stored.offset + stored.num_bytes]
            for part in stored.parts:
                table = tables[part.table]
                outer = stored.num_rows // (table.num_rows * part.radix)
                rows = whole.reshape(outer, table.num_rows, part.radix, stored.stride)
                size = vector_bytes(table.dim, stored.element)
                vectors = rows[..., part.offset : part.offset + size]
                self._places[part.table] = _Place(table, stored.element, vectors)

    def check(self, name: str, rows: IntArray, values: FloatArray) -> None:
        """Raises InvalidRequestError for what cannot be written: a table that is not there, rows
        outside of it, values [len(rows), dim] of another shape, not finite, or too large."""
        place = self._places.get(name)
        if place is None:
            known = ", ".join(sorted(self._places))
            raise InvalidRequestError(f"no table {name!r}; this model has {known}", "table")
        num_rows, dim = place.table.num_rows, place.table.dim
        if rows.ndim != 1 or values.shape != (len(rows), dim):
            raise InvalidRequestError(
                f"values are {list(values.shape)}; table {name} takes [{len(rows)}, {dim}], a "
                "vector for each row",
                "values",
            )
        outside = (rows < 0) | (rows >= num_rows)
        if outside.any():
            raise InvalidRequestError(
                f"row {int(rows[outside][0])} of table {name}, which has rows 0 to {num_rows - 1}",
                "rows",
            )
        if not np.isfinite(values).all():
            raise InvalidRequestError("values must be finite", "values")
        try:
            pack(values, place.element)
        except ModelError as error:
            raise InvalidRequestError(
                f"table {name} is stored in fp16: {error}", "values"
            ) from error

    def write(self, name: str, rows: IntArray, values: FloatArray) -> None:
        """What `check` lets through. Of a row that comes twice, the last vector stays."""
        place = self._places[name]
        last = len(rows) - 1 - np.unique(rows[::-1], return_index=True)[1]
        packed = pack(values[last], place.element)
        order = self._orders.get(name)
        written = rows[last] if order is None else order[rows[last]]
        place.vectors[:, written] = packed[None, :, None]
