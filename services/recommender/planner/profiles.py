"""What memory costs on a machine, and what a set of tables costs there.

Pure. Two kinds: a board of memory banks that work side by side, where an item takes as long as the
bank that is asked most (MicroRec, arXiv:2010.05894, sections 3.2 and 3.4); and a processor whose
caches hold what is read most, where accesses of an item add up.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import log
from typing import Protocol

from services.recommender.planner.physical import Physical


class DoesNotFitError(ValueError):
    """Tables need more memory than there is."""


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a table lies, and what it costs an item there."""

    table: Physical
    tier: str
    bank: int
    ns: float


@dataclass(frozen=True, slots=True)
class Placement:
    """Seats of all tables, and what an item takes, in nanoseconds."""

    seats: tuple[Seat, ...]
    ns: float

    @property
    def num_bytes(self) -> int:
        return sum(seat.table.num_bytes for seat in self.seats)

    @property
    def key(self) -> tuple[float, int]:
        """Less is better: time, then storage."""
        return self.ns, self.num_bytes


class Profile(Protocol):
    """A machine."""

    @property
    def name(self) -> str: ...

    @property
    def distance(self) -> int:
        """Items by which a gather prefetches ahead."""

    def place(self, tables: Sequence[Physical]) -> Placement:
        """Raises DoesNotFitError."""


@dataclass(frozen=True, slots=True)
class Tier:
    """Banks of one kind. An access takes `access_ns`, and `byte_ns` for each byte of the row."""

    name: str
    num_banks: int
    bank_bytes: int
    access_ns: float
    byte_ns: float = 0.0

    def cost_ns(self, table: Physical) -> float:
        """Of a table's accesses for one item."""
        return table.lookups * (self.access_ns + self.byte_ns * table.row_bytes)


@dataclass(frozen=True, slots=True)
class Board:
    """Banks that work side by side. `near` is on the chip: few bytes, quick."""

    name: str
    near: Tier
    far: tuple[Tier, ...]
    """Smallest banks first."""
    distance: int = 4

    def place(self, tables: Sequence[Physical]) -> Placement:
        """The smallest tables lie near, as many as make an item quickest (rule 4: no bank there
        may take longer than the far ones); the others go to the bank with the least to do that has
        room, the largest first."""
        ordered = sorted(tables, key=lambda table: table.num_bytes)
        near_bytes = self.near.num_banks * self.near.bank_bytes
        low = 0
        high = bisect_right(list(accumulate(table.num_bytes for table in ordered)), near_bytes)
        # The more lie near, the longer the near banks take and the shorter the far ones.
        while low < high:
            middle = (low + high) // 2
            near = self._near(ordered[:middle])
            if near is not None and near.ns <= self._far(ordered[middle:]).ns:
                low = middle + 1
            else:
                high = middle
        candidates = [self._at(ordered, count) for count in (low - 1, low) if count >= 0]
        return min((c for c in candidates if c is not None), key=lambda c: c.ns)

    def _at(self, ordered: Sequence[Physical], num_near: int) -> Placement | None:
        near = self._near(ordered[:num_near])
        if near is None:
            return None
        far = self._far(ordered[num_near:])
        return Placement(near.seats + far.seats, max(near.ns, far.ns))

    def _near(self, tables: Sequence[Physical]) -> Placement | None:
        """None where they do not fit."""
        try:
            return _spread(tables[::-1], (self.near,))
        except DoesNotFitError:
            return None

    def _far(self, tables: Sequence[Physical]) -> Placement:
        return _spread(tables[::-1], self.far)


def _spread(tables: Sequence[Physical], tiers: Sequence[Tier]) -> Placement:
    """Each table, in this order, on the bank with the least to do of those that have room."""
    banks = [
        (0.0, number, 0, tier)
        for number, tier in enumerate(tier for tier in tiers for _ in range(tier.num_banks))
    ]
    seats = []
    longest = 0.0
    for table in tables:
        full = []
        while banks and banks[0][2] + table.num_bytes > banks[0][3].bank_bytes:
            full.append(heapq.heappop(banks))
        if not banks:
            raise DoesNotFitError(
                f"{table.name} of {table.num_bytes} bytes has no room: banks hold "
                f"{', '.join(f'{t.num_banks} x {t.bank_bytes} ({t.name})' for t in tiers)} bytes"
            )
        busy_ns, number, used, tier = banks[0]
        ns = tier.cost_ns(table)
        heapq.heapreplace(banks, (busy_ns + ns, number, used + table.num_bytes, tier))
        for bank in full:
            heapq.heappush(banks, bank)
        seats.append(Seat(table, tier.name, number, ns))
        longest = max(longest, busy_ns + ns)
    return Placement(tuple(seats), longest)


@dataclass(frozen=True, slots=True)
class Caches:
    """A processor. Caches hold the tables that are read most for their size, so a table costs what
    a lookup costs in one as large as it and all that are read more together. `ns[i][j]` was
    measured with `footprints[i]` bytes and rows of `row_bytes[j]`; both ascend."""

    name: str
    footprints: tuple[int, ...]
    row_bytes: tuple[int, ...]
    ns: tuple[tuple[float, ...], ...]
    levels: tuple[tuple[str, int], ...]
    """Names and bytes of the caches, the smallest first; the last one is the memory."""
    distance: int = 4
    """Items by which prefetching is best ahead of copying."""

    def lookup_ns(self, footprint: int, row_bytes: int) -> float:
        """Straight between what was measured, over the logarithm of the footprint; rows beyond
        the longest cost in proportion."""
        low, share = _between([log(size) for size in self.footprints], log(max(1, footprint)))
        column, part = _between(self.row_bytes, row_bytes)
        longer = max(1.0, row_bytes / self.row_bytes[-1])

        def at(row: int) -> float:
            here = self.ns[row]
            return here[column] + part * (here[min(column + 1, len(here) - 1)] - here[column])

        above = min(low + 1, len(self.footprints) - 1)
        return longer * (at(low) + share * (at(above) - at(low)))

    def place(self, tables: Sequence[Physical]) -> Placement:
        """Nothing is chosen: the processor keeps near what is read most."""
        footprint = 0
        seats = []
        for table in sorted(tables, key=lambda table: table.num_bytes / table.lookups):
            footprint += table.num_bytes
            ns = table.lookups * self.lookup_ns(footprint, table.row_bytes)
            seats.append(Seat(table, self._level(footprint), 0, ns))
        if footprint > self.levels[-1][1]:
            raise DoesNotFitError(
                f"tables of {footprint} bytes; {self.name} has {self.levels[-1][1]}"
            )
        return Placement(tuple(seats), sum(seat.ns for seat in seats))

    def _level(self, footprint: int) -> str:
        return next((name for name, size in self.levels if footprint <= size), self.levels[-1][0])


def _between(points: Sequence[float], value: float) -> tuple[int, float]:
    """The last point that is not above the value, and how far on the value is to the next."""
    low = min(max(bisect_right(points, value) - 1, 0), len(points) - 1)
    if low == len(points) - 1 or value <= points[0]:
        return low, 0.0
    return low, (value - points[low]) / (points[low + 1] - points[low])


U280 = Board(
    "u280",
    Tier("on-chip", 4, 4 << 20, 157.0),
    (Tier("HBM", 32, 256 << 20, 314.0), Tier("DDR", 2, 16 << 30, 314.0)),
)
"""The paper's board: a round of lookups takes some 314 ns there (the difference between one and two
rounds in its tables), and its published layouts have two on-chip lookups in the time of one."""
