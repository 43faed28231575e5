"""From a trained model to where each of its tables is stored: pure.

Which tables to join or to multiply is the planner's; here its answer becomes bytes and reasons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.recommender.layout import Field, Lookup, Part, Stored, Table
from services.recommender.planner import physical
from services.recommender.planner.physical import Physical, combine, join_by_key
from services.recommender.planner.profiles import Profile, Seat
from services.recommender.planner.search import search
from services.recommender.program import ELEMENTS, Element, vector_bytes
from shared.errors import ModelError

ALIGNMENT = 64
"""Of a stored table's first row: rows that divide a cache line then never straddle two."""
IDS_OF_A_BAG = 8
"""Expected of a field with any number of ids."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan may use. Tables are stored in `element`, and the largest ones in narrower types
    as far as `max_bytes` asks for; products may add `max_growth` of the tables' bytes."""

    element: Element = "fp32"
    max_bytes: int | None = None
    max_growth: float = 0.05
    multiply: tuple[tuple[str, ...], ...] = ()
    """Products that are wanted whatever they cost."""


@dataclass(frozen=True, slots=True)
class Planned:
    """Where everything lies, what an item's lookups take, and what that is beside other ways."""

    stored: list[Stored]
    ns: float
    ns_alone: float
    """With each table by itself."""
    bytes_alone: int


def plan(
    fields: Sequence[Field],
    tables: Sequence[Table],
    lookups: Sequence[Lookup],
    profile: Profile,
    limits: Limits,
) -> Planned:
    """Raises ModelError where the limits cannot be kept."""
    wanted = _wanted(fields, tables, lookups, limits)
    alone = profile.place([combine([table]) for table in wanted])
    cap = int(alone.num_bytes * (1 + limits.max_growth))
    if limits.max_bytes is not None:
        cap = min(cap, limits.max_bytes)
    forced = [_product(wanted, names, cap, alone.num_bytes) for names in limits.multiply]
    taken = {member.name for product in forced for member in product.members}
    rest = join_by_key([table for table in wanted if table.name not in taken])
    spent = sum(product.num_bytes for product in forced)
    found = search(rest, profile, cap - spent)
    if forced:
        found = profile.place([*forced, *(seat.table for seat in found.seats)])
    return Planned(
        _stored(found.seats, {seat.table.name: seat for seat in alone.seats}, forced),
        found.ns,
        alone.ns,
        alone.num_bytes,
    )


def _wanted(
    fields: Sequence[Field], tables: Sequence[Table], lookups: Sequence[Lookup], limits: Limits
) -> list[physical.Table]:
    """What the planner sees. Tables of one key are read by the same ids in the same way; one that
    several fields read, or one field by several ids, is a key of its own."""
    by_name = {field.name: field for field in fields}
    readers: dict[str, list[Lookup]] = {}
    for lookup in lookups:
        readers.setdefault(lookup.table, []).append(lookup)
    found = []
    for table in tables:
        own = readers[table.name]
        lengths = [by_name[lookup.field].length or IDS_OF_A_BAG for lookup in own]
        is_alone = len(own) > 1 or (own[0].pooling is None and lengths[0] > 1)
        key = table.name if is_alone else f"{own[0].field}/{_way(own[0], by_name)}"
        found.append(physical.Table(table.name, table.num_rows, table.dim, key, sum(lengths)))
    return _narrowed(found, limits)


def _way(lookup: Lookup, fields: dict[str, Field]) -> str:
    """How ids are read: one is what it is, whatever the pooling."""
    return "one" if fields[lookup.field].length == 1 else str(lookup.pooling)


def _narrowed(tables: Sequence[physical.Table], limits: Limits) -> list[physical.Table]:
    """With their elements: tables of one key, which are stored together, are narrowed together,
    the largest first, until all fit."""
    groups: dict[str, list[physical.Table]] = {}
    for table in tables:
        groups.setdefault(table.key, []).append(replace(table, element=limits.element))
    if limits.max_bytes is not None:
        order = sorted(groups, key=lambda key: _num_bytes(groups[key]), reverse=True)
        for element in ELEMENTS[ELEMENTS.index(limits.element) + 1 :]:
            for key in order:
                if sum(map(_num_bytes, groups.values())) > limits.max_bytes:
                    groups[key] = [replace(table, element=element) for table in groups[key]]
        if (total := sum(map(_num_bytes, groups.values()))) > limits.max_bytes:
            raise ModelError(
                f"the tables take {total} bytes in int8; {limits.max_bytes} are allowed"
            )
    by_name = {table.name: table for group in groups.values() for table in group}
    return [by_name[table.name] for table in tables]


def _num_bytes(tables: Sequence[physical.Table]) -> int:
    return sum(combine([table]).num_bytes for table in tables)


def _product(
    tables: Sequence[physical.Table], names: Sequence[str], cap: int, total: int
) -> Physical:
    known = {table.name: table for table in tables}
    if unknown := [name for name in names if name not in known]:
        raise ModelError(f"no table {', '.join(unknown)} to multiply; there are {', '.join(known)}")
    try:
        product = combine([known[name] for name in names])
    except ValueError as error:
        raise ModelError(str(error)) from error
    members = [combine([known[name]]) for name in names]
    growth = product.num_bytes - sum(member.num_bytes for member in members)
    if total + growth > cap:
        rows = " x ".join(f"{member.num_rows:,}" for member in members)
        raise ModelError(
            f"{product.name} has {rows} = {product.num_rows:,} rows of {product.row_bytes} bytes: "
            f"{product.num_bytes:,} bytes instead of {product.num_bytes - growth:,}; with it all "
            f"tables take {total + growth:,} bytes, and at most {cap:,} are allowed"
        )
    return product


def _stored(
    seats: Sequence[Seat], alone: dict[str, Seat], forced: Sequence[Physical]
) -> list[Stored]:
    """One behind the other, those that are read most for their size first."""
    found: list[Stored] = []
    offset = 0
    for seat in sorted(seats, key=lambda seat: seat.table.num_bytes / seat.table.lookups):
        table = seat.table
        parts, place = [], 0
        radices = _radices(table)
        for member in table.members:
            parts.append(Part(member.name, place, radices[member.key]))
            place += vector_bytes(member.dim, table.element)
        reason = _reason(seat, alone, any(table is product for product in forced))
        found.append(
            Stored(
                *(parts, offset, table.num_rows, table.row_bytes, table.element),
                *(seat.tier, round(seat.ns, 3), reason, seat.bank),
            )
        )
        offset += -(-table.num_bytes // ALIGNMENT) * ALIGNMENT
    return found


def _radices(table: Physical) -> dict[str, int]:
    """By key: the last key's rows lie side by side."""
    radices, radix = {}, 1
    for key, num_rows in reversed({m.key: m.num_rows for m in table.members}.items()):
        radices[key] = radix
        radix *= num_rows
    return radices


def _reason(seat: Seat, alone: dict[str, Seat], is_forced: bool) -> str:
    members = seat.table.members
    apart = sum(alone[member.name].ns for member in members)
    if len(members) == 1:
        return "alone: joined with nothing by its ids, and no product with it pays or fits"
    if is_forced:
        return f"multiplied because it was asked for: {seat.ns:.1f} ns, apart {apart:.1f}"
    keys = Counter(member.key for member in members)
    if len(keys) == 1:
        return f"joined: the same ids read all; one access of {seat.ns:.1f} ns, apart {apart:.1f}"
    return f"multiplied: one access of {seat.ns:.1f} ns, apart {apart:.1f}"
