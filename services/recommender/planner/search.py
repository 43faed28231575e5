"""Which tables to multiply: the paper's heuristic, and a search that is never worse.

Pure. Both look for the least time for an item, then for the least storage, within a cap on storage.
Products are of tables with one lookup an item; tables of one key are joined before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from services.recommender.planner.physical import Physical, combine
from services.recommender.planner.profiles import DoesNotFitError, Placement, Profile

EXHAUSTIVE = 9
"""Up to so many tables every partition is tried (21,147 of 9)."""
NUM_CANDIDATES = 48
"""Of more tables, so many of the smallest may become part of a product beyond those that the
paper's heuristic multiplies."""
EFFORT = 100_000
"""Tables placed in a search, in all; to look at a change costs a fiftieth of placing its tables."""

Partition = list[Physical]


def algorithm_3(tables: Sequence[Physical], profile: Profile, max_bytes: int) -> Placement:
    """MicroRec (arXiv:2010.05894, section 3.4): of the n smallest tables (rule 1) the smallest is
    multiplied with the largest, the second smallest with the second largest and so on (rules 2 and
    3); all are placed (rule 4); the best n wins. Raises DoesNotFitError."""
    ordered = sorted(tables, key=lambda table: table.num_bytes)
    best = profile.place(ordered)
    for count in range(2, len(_multipliable(ordered)) + 1, 2):
        partition = pair(ordered, count)
        if sum(table.num_bytes for table in partition) <= max_bytes:
            best = _better(best, partition, profile)
    return best


def pair(ordered: Sequence[Physical], count: int) -> Partition:
    """The `count` smallest tables that can be multiplied, in pairs; the others as they are."""
    able = _multipliable(ordered)
    pairs = [multiply(able[i], able[count - 1 - i]) for i in range(count // 2)]
    return [*pairs, *able[count:], *(table for table in ordered if table.lookups != 1)]


def search(tables: Sequence[Physical], profile: Profile, max_bytes: int) -> Placement:
    """The best placement found: of few tables the best there is, of many one that no single change
    makes better, and never worse than Algorithm 3's. Raises DoesNotFitError."""
    single = _multipliable(tables)
    if len(single) <= EXHAUSTIVE:
        fixed = [table for table in tables if table.lookups != 1]
        best = profile.place(tables)
        for partition in partitions(single, max_bytes - sum(t.num_bytes for t in fixed)):
            best = _better(best, [*partition, *fixed], profile)
        return best
    return _improve(algorithm_3(tables, profile, max_bytes), profile, max_bytes)


def _improve(start: Placement, profile: Profile, max_bytes: int) -> Placement:
    """Takes the first change that is better, until none is or enough were tried."""
    best = start
    effort = 0.0
    changed = True
    while changed:
        changed = False
        partition = [seat.table for seat in best.seats]
        for changed_partition in neighbours(partition):
            num_bytes = sum(table.num_bytes for table in changed_partition)
            effort += len(partition) / 50
            if effort > EFFORT:
                return best
            # With as many tables as before, time seldom changes; storage is what may be saved.
            is_shorter = len(changed_partition) < len(partition)
            if num_bytes > max_bytes or not (is_shorter or num_bytes < best.num_bytes):
                continue
            effort += len(partition)
            better = _better(best, changed_partition, profile)
            if better is not best:
                best, changed = better, True
                break
    return best


def neighbours(partition: Partition) -> Iterator[Partition]:
    """Partitions that one change makes: two tables multiplied, a product taken apart, members of
    two exchanged."""
    ordered = sorted(partition, key=lambda table: table.num_bytes)
    products = [table for table in ordered if table.is_product]
    small = [t for t in _multipliable(ordered) if not t.is_product][:NUM_CANDIDATES]
    for product in products:
        rest = _without(partition, product)
        yield rest + _parts(product)
        for member in _parts(product):
            left = [part for part in _parts(product) if part is not member]
            for other in (*small, *products):
                if other is product:
                    continue
                for given in _parts(other):
                    kept = [part for part in _parts(other) if part is not given]
                    swapped = [_product([*left, given]), _product([*kept, member])]
                    yield _without(rest, other) + swapped
    for number, first in enumerate(small):
        for second in (*small[number + 1 :], *products):
            yield [*_without(_without(partition, first), second), multiply(first, second)]


def partitions(tables: Sequence[Physical], max_bytes: int) -> Iterator[Partition]:
    """Every way to multiply these tables that stays within the storage."""
    if not tables:
        yield []
        return
    first, *rest = tables
    for partition in partitions(rest, max_bytes):
        total = sum(table.num_bytes for table in partition)
        if total + first.num_bytes <= max_bytes:
            yield [first, *partition]
        for place, other in enumerate(partition):
            product = multiply(first, other)
            if total - other.num_bytes + product.num_bytes <= max_bytes:
                yield [*partition[:place], product, *partition[place + 1 :]]


def multiply(first: Physical, second: Physical) -> Physical:
    """Both as one."""
    return combine((*first.members, *second.members))


def _product(parts: Sequence[Physical]) -> Physical:
    product = parts[0]
    for part in parts[1:]:
        product = multiply(product, part)
    return product


def _parts(table: Physical) -> Partition:
    """A product's factors: the tables of each key, joined."""
    keys = dict.fromkeys(member.key for member in table.members)
    return [combine([m for m in table.members if m.key == key]) for key in keys]


def _multipliable(tables: Sequence[Physical]) -> list[Physical]:
    return [table for table in tables if table.lookups == 1]


def _without(partition: Sequence[Physical], table: Physical) -> Partition:
    return [other for other in partition if other is not table]


def _better(best: Placement, partition: Sequence[Physical], profile: Profile) -> Placement:
    """The placement of the partition if it is better, else the best so far."""
    try:
        placed = profile.place(partition)
    except DoesNotFitError:
        return best
    return placed if placed.key < best.key else best
