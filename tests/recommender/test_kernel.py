"""The kernel equals its checked twin, whatever the program and however hostile the ids."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.recommender.kernel import Kernel, hashed_rows
from services.recommender.machine_code import RING
from services.recommender.packing import pack
from services.recommender.program import ELEMENTS, Access, Bag, Column, Program, Read, vector_bytes
from shared.errors import ModelError
from tests.recommender import twin

INT64 = st.integers(-(2**63), 2**63 - 1)
DIMS = (1, 2, 3, 4, 5, 8, 12, 16, 17, 31, 32, 48, 64)
FALLBACKS = ("zero", "default", "hash")


def columns() -> st.SearchStrategy[Column]:
    return st.integers(1, 9).flatmap(
        lambda rows: st.builds(
            Column, st.just(rows), st.sampled_from(FALLBACKS), st.integers(0, rows - 1)
        )
    )


@st.composite
def programs(draw: st.DrawFn) -> tuple[Program, np.ndarray]:
    """Tables alone, joined and multiplied, in all types, into one or two outputs, and an arena."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    cols = draw(st.lists(columns(), min_size=1, max_size=5))
    left = draw(st.permutations(range(len(cols))))
    widths = [0] * draw(st.integers(1, 2))
    accesses, pieces, base = [], [], 0
    while left:
        group = left[: draw(st.integers(1, 3))]
        left = [c for c in left if c not in group]
        element = draw(st.sampled_from(ELEMENTS))
        reads, offset, radix, rows = [], 0, 1, []
        for column in group:
            for _ in range(draw(st.integers(1, 2))):
                dim = draw(st.sampled_from(DIMS))
                output = draw(st.integers(0, len(widths) - 1))
                reads.append(Read(column, radix, offset, dim, output, widths[output]))
                widths[output] += dim
                offset += vector_bytes(dim, element)
                rows.append(dim)
            radix *= cols[column].num_rows
        parts = [pack(rng.standard_normal((radix, dim), np.float32), element) for dim in rows]
        table = np.concatenate(parts, axis=1)
        gap = draw(st.sampled_from((0, 4, 64)))
        accesses.append(Access(base + gap, offset, element, tuple(reads)))
        pieces += [np.zeros(gap, np.uint8), table.ravel()]
        base += gap + table.size
    for number, column in enumerate(cols):
        if draw(st.booleans()):
            cols[number] = replace(column, order=base)
            pieces.append(rng.permutation(column.num_rows).astype(np.int32).view(np.uint8))
            base += 4 * column.num_rows
    return Program(tuple(cols), tuple(accesses), tuple(widths)), np.concatenate(pieces)


def ids_for(program: Program) -> st.SearchStrategy[list[list[int]]]:
    each = [st.integers(0, c.num_rows - 1) | INT64 for c in program.columns]
    return st.lists(st.tuples(*each).map(list), max_size=2 * RING + 3)


@settings(max_examples=60, deadline=None)
@given(st.data(), programs(), st.integers(0, RING + 1))
def test_it_equals_its_twin(
    data: st.DataObject, made: tuple[Program, np.ndarray], distance: int
) -> None:
    program, arena = made
    rows = data.draw(ids_for(program))
    ids = np.array(rows, np.int64).reshape(len(rows), len(program.columns))
    found, missing = twin.run_kernel(Kernel(program, arena, distance), ids)
    expected, num_outside = twin.gather(program, arena, ids)
    for got, want in zip(found, expected, strict=True):
        assert got.tobytes() == want.tobytes()
    assert missing.tolist() == num_outside.tolist()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 8) | INT64, max_size=12), min_size=1, max_size=9),
    st.sampled_from(FALLBACKS),
    st.sampled_from(ELEMENTS),
    st.sampled_from(DIMS),
    st.booleans(),
    st.booleans(),
)
def test_bags_equal_their_twin(
    bags: list[list[int]], fallback: str, element: str, dim: int, is_mean: bool, is_sorted: bool
) -> None:
    rng = np.random.default_rng(dim)
    parts = [pack(rng.standard_normal((9, d), np.float32), element) for d in (dim, 4)]
    table = np.concatenate(parts, axis=1)
    reads = (Read(0, 1, 0, dim, 0, 0), Read(0, 1, parts[0].shape[1], 4, 0, dim))
    access = Access(0, table.shape[1], element, reads)
    order = rng.permutation(9).astype(np.int32).view(np.uint8)
    arena = np.concatenate([table.ravel(), order])
    bag = Bag(access, Column(9, fallback, 3, table.size if is_sorted else None), is_mean)
    program = Program((), (), (dim + 4,), (bag,))
    kernel = Kernel(program, arena, 4)
    arrays = [np.array(ids, np.int64) for ids in bags]
    expected, num_outside = twin.pool(bag, arena, arrays)
    out, missing = np.full((len(bags), dim + 4), np.nan, np.float32), np.zeros(1, np.int64)
    bounds = np.cumsum([0, *map(len, bags)])
    kernel.pool(0, np.concatenate(arrays), bounds, [out[:, :dim], out[:, dim:]], missing)
    assert out.tobytes() == np.concatenate(expected, axis=1).tobytes()
    assert missing[0] == num_outside


@pytest.mark.parametrize("at_the_end", [False, True], ids=["low", "high"])
@pytest.mark.parametrize("element", ELEMENTS)
def test_a_million_hostile_ids_never_read_outside_of_the_arena(
    element: str, at_the_end: bool
) -> None:
    """Its first or last byte is the first or last that may be read: another ends the process."""
    rng = np.random.default_rng(7)
    sizes = [(4, 11), (8, 5), (16, 29), (33, 3), (64, 17)]
    accesses, place, base, size_of = [], 0, 0, vector_bytes
    for number, (dim, rows) in enumerate(sizes):
        stride = size_of(dim, element)
        read = Read(number, 1, 0, dim, 0, place)
        accesses.append(Access(base, stride, element, (read,)))
        place, base = place + dim, base + stride * rows
    content = [pack(rng.standard_normal((r, d), np.float32), element).ravel() for d, r in sizes]
    cols = []
    for number, (_, rows) in enumerate(sizes):
        is_sorted = number % 2 == 0
        cols.append(Column(rows, FALLBACKS[number % 3], rows // 2, base if is_sorted else None))
        if is_sorted:
            content.append(rng.permutation(rows).astype(np.int32).view(np.uint8))
            base += 4 * rows
    arena = twin.Guarded(base, at_the_end)
    arena.bytes[:] = np.concatenate(content)
    program = Program(tuple(cols), tuple(accesses), (place,))
    kernel = Kernel(program, arena.bytes, 4)
    hostile = np.array([0, 1, -1, 2**63 - 1, -(2**63), 2**32, -(2**32), 2**31, 1 << 62], np.int64)
    num_batches = 0
    for size in (1, 2, 3, 17, 64, 200_000 - 87):
        ids = rng.integers(-(2**63), 2**63 - 1, (size, len(sizes)), np.int64, endpoint=True)
        near = rng.integers(-3, 40, ids.shape)
        ids = np.where(rng.random(ids.shape) < 0.4, near, ids)
        ids = np.where(rng.random(ids.shape) < 0.2, rng.choice(hostile, ids.shape), ids)
        found, missing = twin.run_kernel(kernel, ids)
        expected, num_outside = twin.gather(program, arena.bytes, ids)
        assert found[0].tobytes() == expected[0].tobytes()
        assert missing.tolist() == num_outside.tolist()
        num_batches += ids.size
    assert num_batches == 1_000_000


def test_a_program_that_leaves_the_arena_or_its_output_is_refused() -> None:
    read = Read(0, 1, 0, 4, 0, 0)
    arena = np.zeros(64, np.uint8)
    for program, problem in [
        (Program((Column(5),), (Access(0, 16, "fp32", (read,)),), (4,)), "ends at byte 80 of 64"),
        (Program((Column(4),), (Access(-16, 16, "fp32", (read,)),), (4,)), "ends at byte 48"),
        (Program((Column(4),), (Access(0, 8, "fp32", (read,)),), (4,)), "beyond its row"),
        (Program((Column(4),), (Access(0, 16, "fp32", (read,)),), (3,)), "beyond the 3 values"),
        (Program((Column(4, "default", 4),), (), ()), "default row 4"),
    ]:
        with pytest.raises(ModelError, match=problem):
            Kernel(program, arena, 4)


def test_hashed_rows_are_spread_evenly() -> None:
    counts = np.bincount(hashed_rows(np.arange(100_000), 100), minlength=100)
    assert len(counts) == 100
    assert 0.85 < counts.min() / 1000 < counts.max() / 1000 < 1.15
