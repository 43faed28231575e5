"""Tables as they are stored: alone, joined with others of the same key, or multiplied with others.

Pure. A Cartesian product of tables has a row for each combination of their rows, so that one memory
access finds a row of each (MicroRec, arXiv:2010.05894, section 3.3). Tables that are looked up by
the same id need no combinations: they are joined row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from services.recommender.program import ELEMENTS, Element, vector_bytes


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the model. Tables of one `key` are looked up by the same id in an item, `lookups`
    times each; they have as many rows."""

    name: str
    num_rows: int
    dim: int
    key: str
    lookups: int = 1
    element: Element = "fp32"


@dataclass(frozen=True, slots=True)
class Physical:
    """What one access reads a row of."""

    members: tuple[Table, ...]
    num_rows: int
    dim: int
    element: Element
    row_bytes: int
    lookups: int
    """Accesses for each item."""
    num_bytes: int
    """Rows times their bytes, worked out once: a search asks for it by the million."""

    @property
    def name(self) -> str:
        return "*".join(member.name for member in self.members)

    @property
    def is_product(self) -> bool:
        return len({member.key for member in self.members}) > 1


def combine(members: Sequence[Table]) -> Physical:
    """Tables of one key are joined, those of several multiplied, all in the widest element.

    Raises:
        ValueError: tables of one key differ in rows, or one of a product has several lookups, of
            which each combination would be an access of its own.
    """
    rows_of = {member.key: member.num_rows for member in members}
    lookups = {member.lookups for member in members}
    for member in members:
        if member.num_rows != rows_of[member.key]:
            raise ValueError(
                f"tables of key {member.key!r} have {member.num_rows} and {rows_of[member.key]} "
                "rows; the same ids must find a row in each"
            )
    if len(lookups) > 1 or (len(rows_of) > 1 and lookups != {1}):
        raise ValueError(
            f"{', '.join(m.name for m in members)} cannot be read by one access: they have "
            f"{', '.join(str(m.lookups) for m in members)} lookups an item"
        )
    element = members[0].element
    if any(member.element != element for member in members):
        element = min((member.element for member in members), key=ELEMENTS.index)
    num_rows = prod(rows_of.values())
    row_bytes = sum(vector_bytes(member.dim, element) for member in members)
    return Physical(
        tuple(members),
        num_rows,
        sum(member.dim for member in members),
        element,
        row_bytes,
        members[0].lookups,
        num_rows * row_bytes,
    )


def join_by_key(tables: Sequence[Table]) -> list[Physical]:
    """Tables that share a key and a number of lookups as one: fewer accesses, not a byte more."""
    groups: dict[tuple[str, int], list[Table]] = {}
    for table in tables:
        groups.setdefault((table.key, table.lookups), []).append(table)
    return [combine(members) for members in groups.values()]
