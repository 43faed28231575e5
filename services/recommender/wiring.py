"""From a layout to the program of its gather: pure."""

from __future__ import annotations

from dataclasses import dataclass

from services.recommender.layout import Field, Layout, Lookup, Stored
from services.recommender.program import Access, Bag, Column, Fallback, Program, Read


@dataclass(frozen=True, slots=True)
class Wiring:
    """The program, and which ids of which fields its columns and bags take."""

    program: Program
    columns: dict[str, slice]
    """By field, the fields in the layout's order."""
    bags: tuple[str, ...]
    """The field of each bag; a field may have several."""


def is_bag(layout: Layout, field: Field) -> bool:
    """Whether a field's ids are pooled rather than read one by one."""
    pooled = any(x.pooling is not None for x in layout.lookups if x.field == field.name)
    return field.length is None or (field.length > 1 and pooled)


def wire(layout: Layout) -> Wiring:
    """The layout must be sound (`contradictions`)."""
    columns: list[Column] = []
    places: dict[str, slice] = {}
    for field in layout.fields:
        if not is_bag(layout, field):
            length = field.length or 1
            places[field.name] = slice(len(columns), len(columns) + length)
            columns += [_column(field)] * length
    accesses: list[Access] = []
    bags: list[tuple[str, Bag]] = []
    for stored in layout.stored:
        lookups = [x for part in stored.parts for x in layout.lookups if x.table == part.table]
        if lookups[0].field not in places:
            bags += _bags(layout, stored, lookups)
        else:
            accesses += _accesses(layout, stored, lookups, places)
    program = Program(
        tuple(columns),
        tuple(accesses),
        tuple(output.width for output in layout.outputs),
        tuple(bag for _, bag in bags),
    )
    return Wiring(program, places, tuple(name for name, _ in bags))


def _accesses(
    layout: Layout, stored: Stored, lookups: list[Lookup], places: dict[str, slice]
) -> list[Access]:
    """One for all tables of a joined or multiplied one; of a table alone, one for each id."""
    if len(stored.parts) > 1:
        reads = tuple(
            _read(layout, stored, lookup, places[lookup.field].start, 0) for lookup in lookups
        )
        return [Access(stored.offset, stored.stride, stored.element, reads)]
    return [
        Access(
            *(stored.offset, stored.stride, stored.element),
            (_read(layout, stored, lookup, column, number),),
        )
        for lookup in lookups
        for number, column in enumerate(
            range(places[lookup.field].start, places[lookup.field].stop)
        )
    ]


def _bags(layout: Layout, stored: Stored, lookups: list[Lookup]) -> list[tuple[str, Bag]]:
    """One for each field that reads the table, or the tables joined."""
    found = []
    for name in dict.fromkeys(lookup.field for lookup in lookups):
        own = [lookup for lookup in lookups if lookup.field == name]
        reads = tuple(_read(layout, stored, lookup, 0, 0) for lookup in own)
        access = Access(stored.offset, stored.stride, stored.element, reads)
        column = _column(layout.field(name))
        found.append((name, Bag(access, column, own[0].pooling == "mean")))
    return found


def _read(layout: Layout, stored: Stored, lookup: Lookup, column: int, number: int) -> Read:
    part = next(part for part in stored.parts if part.table == lookup.table)
    dim = layout.table(lookup.table).dim
    place = lookup.place + number * dim
    return Read(column, part.radix, part.offset, dim, lookup.output, place)


def _column(field: Field) -> Column:
    # What is refused never comes so far; were it to, the default row is safe to read.
    fallback: Fallback = "default" if field.unknown == "reject" else field.unknown
    return Column(field.num_rows, fallback, field.default_row, field.order)
