"""What one gather does: which rows it reads, and where their values go: pure.

An access finds the rows of all its reads by one address: tables that share ids are joined row by
row, others are multiplied, so that a combination of ids has a row of its own (MicroRec,
arXiv:2010.05894, section 3.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Element = Literal["fp32", "fp16", "int8"]
"""Of a stored value; an int8 vector is led by its float32 scale."""
Fallback = Literal["zero", "default", "hash"]
"""What an id outside of its table reads: nothing, the default row, or a row by its hash."""

ELEMENTS: tuple[Element, ...] = ("fp32", "fp16", "int8")
VALUE_BYTES: dict[Element, int] = {"fp32": 4, "fp16": 2, "int8": 1}
SCALE_BYTES = 4
ORDER_BYTES = 4
"""Of a row's number in an order, whose rows all must be those of the table."""


def vector_bytes(dim: int, element: Element) -> int:
    """Of a stored vector; int8 ones are padded, so that every scale lies on 4 bytes."""
    if element == "int8":
        return SCALE_BYTES + -(-dim // SCALE_BYTES) * SCALE_BYTES
    return dim * VALUE_BYTES[element]


@dataclass(frozen=True, slots=True)
class Column:
    """Ids of a field: one for each item."""

    num_rows: int
    fallback: Fallback = "default"
    default_row: int = 0
    order: int | None = None
    """Where in the arena the row of each id is said, int32 [num_rows]; None: it is the id."""


@dataclass(frozen=True, slots=True)
class Read:
    """A vector of an access."""

    column: int
    radix: int
    """By how many rows of the access the next id's row is further on."""
    offset: int
    """Bytes from the row's beginning."""
    dim: int
    output: int
    """Which of the outputs takes the values, from `place` of its row on."""
    place: int


@dataclass(frozen=True, slots=True)
class Access:
    """Rows of `stride` bytes from `base` on, in the arena; at least one read."""

    base: int
    stride: int
    element: Element
    reads: tuple[Read, ...]

    @property
    def radices(self) -> dict[int, int]:
        """By column."""
        return {read.column: read.radix for read in self.reads}


@dataclass(frozen=True, slots=True)
class Bag:
    """Many ids of one field, whose vectors are added up in their order. Its reads know no column
    but this one."""

    access: Access
    column: Column
    is_mean: bool


@dataclass(frozen=True, slots=True)
class Program:
    """Accesses for each item, and for each bag. Output k has rows of `widths[k]` float32 values;
    accesses and bags together fill them."""

    columns: tuple[Column, ...]
    accesses: tuple[Access, ...]
    widths: tuple[int, ...]
    bags: tuple[Bag, ...] = ()

    def problems(self, arena_bytes: int) -> Iterator[str]:
        """Sentences on what would read outside of the arena or write outside of an output."""
        for number, access in enumerate(self.accesses):
            yield from self._wrong(f"access {number}", access, self.columns, arena_bytes)
        for number, bag in enumerate(self.bags):
            yield from self._wrong(f"bag {number}", bag.access, (bag.column,), arena_bytes)
        for column in (*self.columns, *(bag.column for bag in self.bags)):
            if not 0 <= column.default_row < column.num_rows:
                yield f"a column has {column.num_rows} rows, not default row {column.default_row}"
            if column.order is not None and not (
                0 <= column.order <= arena_bytes - ORDER_BYTES * column.num_rows
            ):
                yield f"an order of {column.num_rows} rows is not within {arena_bytes} bytes"

    def _wrong(
        self, name: str, access: Access, columns: tuple[Column, ...], arena_bytes: int
    ) -> Iterator[str]:
        last = sum(radix * (columns[c].num_rows - 1) for c, radix in access.radices.items())
        end = access.base + (last + 1) * access.stride
        if access.base < 0 or end > arena_bytes:
            yield f"{name} ends at byte {end} of {arena_bytes}"
        for read in access.reads:
            if not 0 <= read.offset <= access.stride - vector_bytes(read.dim, access.element):
                yield f"{name} reads beyond its row of {access.stride} bytes"
            if not 0 <= read.place <= self.widths[read.output] - read.dim:
                yield f"{name} writes beyond the {self.widths[read.output]} values of its output"
