"""Which tables are multiplied, and what that brings: the paper's plans, and better ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.recommender.generate import Shape, read_shapes
from services.recommender.planner import search as searching
from services.recommender.planner.physical import Physical, Table, combine, join_by_key
from services.recommender.planner.profiles import (
    U280,
    Board,
    Caches,
    DoesNotFitError,
    Placement,
    Profile,
    Tier,
)
from services.recommender.planner.search import EFFORT, algorithm_3, search

ROUND_NS = U280.far[0].access_ns
CPU = Caches(
    "cpu",
    (1 << 15, 1 << 20, 1 << 25, 1 << 30),
    (16, 64, 256),
    ((1.0, 2.0, 6.0), (3.0, 5.0, 12.0), (10.0, 16.0, 30.0), (20.0, 26.0, 50.0)),
    (("L1", 1 << 15), ("L2", 1 << 20), ("L3", 1 << 25), ("DRAM", 1 << 36)),
)


def tables_of(shape: Shape) -> list[Physical]:
    sizes = [(dim, rows) for dim, rows, count in shape.embedding_tables for _ in range(count)]
    return join_by_key([Table(f"t{i}", rows, dim, f"t{i}") for i, (dim, rows) in enumerate(sizes)])


def total(tables: Sequence[Physical]) -> int:
    return sum(table.num_bytes for table in tables)


tables = st.lists(
    st.tuples(st.integers(1, 4000), st.sampled_from([4, 8, 16, 32]), st.sampled_from([1, 1, 1, 3])),
    min_size=1,
    max_size=24,
).map(
    lambda sizes: join_by_key(
        [
            Table(f"t{n}", rows, dim, f"t{n}", lookups)
            for n, (rows, dim, lookups) in enumerate(sizes)
        ]
    )
)
boards = st.builds(
    lambda near, near_ns, num_far: Board(
        "board",
        Tier("near", 2, near, near_ns),
        (Tier("small", num_far, 1 << 22, 300.0, 0.1), Tier("large", 1, 1 << 34, 320.0, 0.2)),
    ),
    st.sampled_from([0, 1 << 12, 1 << 16]),
    st.sampled_from([60.0, 150.0]),
    st.integers(1, 5),
)
profiles = st.one_of(boards, st.just(CPU))


@pytest.mark.parametrize(
    ("size", "before", "after", "rounds", "most_storage"),
    [("small", 47, 42, (2, 1), 1.032), ("large", 98, 84, (3, 2), 1.019)],
)
def test_the_papers_heuristic_reproduces_the_papers_plans(
    size: str, before: int, after: int, rounds: tuple[int, int], most_storage: float
) -> None:
    shapes = read_shapes()
    model = tables_of(shapes.small if size == "small" else shapes.large)
    plain = U280.place(model)
    planned = algorithm_3(model, U280, round(most_storage * total(model)))
    assert (len(plain.seats), len(planned.seats)) == (before, after)
    assert (plain.ns / ROUND_NS, planned.ns / ROUND_NS) == pytest.approx(rounds)
    assert planned.num_bytes <= most_storage * total(model)
    found = search(model, U280, round(most_storage * total(model)))
    assert found.key <= planned.key


@given(tables, profiles, st.floats(1.0, 4.0))
def test_the_search_is_never_worse_than_the_heuristic_and_keeps_to_the_storage(
    model: list[Physical], profile: Profile, growth: float
) -> None:
    cap = round(growth * total(model))
    paper, found = algorithm_3(model, profile, cap), search(model, profile, cap)
    assert found.key <= paper.key
    assert found.num_bytes <= max(cap, total(model))
    members = [member.name for seat in found.seats for member in seat.table.members]
    assert sorted(members) == sorted(table.name for table in model)


def every_partition(items: Sequence[Physical]) -> Iterator[list[list[Physical]]]:
    """By assigning each to a group: another way than the search's."""
    for code in range(len(items) ** max(0, len(items) - 1)):
        groups: dict[int, list[Physical]] = {0: [items[0]]}
        for item in items[1:]:
            code, group = divmod(code, len(items))
            groups.setdefault(group, []).append(item)
        if list(groups) == list(range(len(groups))):
            yield list(groups.values())


@given(tables.filter(lambda model: len(model) <= 5), profiles, st.floats(1.0, 30.0))
def test_of_few_tables_the_best_plan_is_found(
    model: list[Physical], profile: Profile, growth: float
) -> None:
    cap = round(growth * total(model))
    best = profile.place(model).key
    for groups in every_partition(model):
        if any(len(group) > 1 and any(t.lookups > 1 for t in group) for group in groups):
            continue
        whole = [combine([m for table in group for m in table.members]) for group in groups]
        if total(whole) <= cap:
            best = min(best, profile.place(whole).key)
    assert search(model, profile, cap).key == pytest.approx(best)


def test_nine_tables_are_searched_whole() -> None:
    """Three products of three are best here, which no pairs are."""
    board = Board("board", Tier("near", 1, 0, 1.0), (Tier("far", 3, 1 << 30, 300.0),))
    model = join_by_key([Table(f"t{n}", 10, 4, f"t{n}") for n in range(9)])
    found = search(model, board, 1 << 20)
    assert found.ns == 300.0
    assert {len(seat.table.members) for seat in found.seats} == {3}
    assert algorithm_3(model, board, 1 << 20).ns == 600.0


class Counting:
    """A profile that counts what it is asked."""

    name = "counting"
    num_placed = 0

    def place(self, tables: Sequence[Physical]) -> Placement:
        self.num_placed += len(tables)
        return U280.place(tables)


def test_the_effort_for_a_thousand_tables_is_bounded() -> None:
    model = join_by_key(
        [Table(f"t{n}", 3 + n % 40 if n % 2 else 20_000, 8, f"t{n}") for n in range(1000)]
    )
    heuristic, whole = Counting(), Counting()
    cap = round(1.02 * total(model))
    paper = algorithm_3(model, heuristic, cap)
    found = search(model, whole, cap)
    assert whole.num_placed - heuristic.num_placed <= EFFORT
    assert found.key <= paper.key < U280.place(model).key


def test_a_product_that_leaves_the_cache_is_not_made() -> None:
    """Where caches hold small tables, a lookup in a large product costs more than two in small
    tables; where every access costs the same, one is better than two."""
    model = join_by_key([Table(name, 100, 16, name) for name in "ab"])
    assert len(search(model, CPU, 1 << 30).seats) == 2
    flat = replace(CPU, ns=(CPU.ns[-1],) * len(CPU.ns))
    (seat,) = search(model, flat, 1 << 30).seats
    assert (seat.table.name, seat.tier, seat.table.num_rows) == ("a*b", "L3", 10_000)


def test_tables_of_one_key_are_joined_and_cost_no_storage() -> None:
    model = [Table("a", 10, 4, "user"), Table("b", 10, 8, "user"), Table("c", 5, 4, "item")]
    user, item = join_by_key(model)
    assert (user.name, user.num_rows, user.row_bytes, user.is_product) == ("a*b", 10, 48, False)
    both = combine([*user.members, *item.members])
    assert (both.num_rows, both.row_bytes, both.is_product) == (50, 64, True)


def test_what_cannot_be_read_by_one_access_is_refused() -> None:
    with pytest.raises(ValueError, match="tables of key 'user' have 9 and 10 rows"):
        combine([Table("a", 9, 4, "user"), Table("b", 10, 4, "user")])
    with pytest.raises(ValueError, match=r"a, b cannot be read by one access: .* 1, 3 lookups"):
        combine([Table("a", 9, 4, "a"), Table("b", 10, 4, "b", 3)])


def test_tables_without_room_are_named() -> None:
    board = Board("board", Tier("near", 1, 0, 1.0), (Tier("far", 2, 1000, 300.0),))
    with pytest.raises(
        DoesNotFitError, match=r"big of 1600 bytes has no room: .* 2 x 1000 \(far\)"
    ):
        board.place(join_by_key([Table("big", 100, 4, "big"), Table("b", 1, 4, "b")]))
    with pytest.raises(DoesNotFitError, match="cpu has"):
        CPU.place(join_by_key([Table("big", 1 << 34, 4, "big")]))


def test_partitions_are_all_there_once() -> None:
    model = join_by_key([Table(f"t{n}", 2, 1, f"t{n}") for n in range(6)])
    found = [
        frozenset(frozenset(m.name for m in t.members) for t in partition)
        for partition in searching.partitions(model, 1 << 40)
    ]
    assert len(found) == len(set(found)) == 203  # Bell's number of 6
