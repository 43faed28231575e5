"""Slices and hands: however many there are, each item is scored once, with the same bits."""

from __future__ import annotations

import gc
import threading
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.recommender.dense import NotFiniteError
from services.recommender.folder import load_model
from services.recommender.model import Model
from services.recommender.query import Bags, Query, cut
from tests.recommender.test_quantize import write_pooled

COUNTS = st.lists(st.integers(0, 700), max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "pooled"
    write_pooled(path)
    return path


@pytest.fixture(scope="module")
def whole(folder: Path) -> Model:
    return load_model(folder, num_threads=1, slice_rows=4096)


def bags(lengths: list[int], ids: np.ndarray) -> Bags:
    return Bags(ids[: sum(lengths)], np.cumsum([0, *lengths]))


def query(num_items: int, seed: int, *, is_shared: bool = False) -> Query:
    """One id an item; a bag of any length and one of three, the same for all if shared."""
    rng = np.random.default_rng(seed)
    num_bags = 1 if is_shared else num_items
    lengths = {"any": rng.integers(0, 5, num_bags).tolist(), "three": [3] * num_bags}
    return Query(
        num_items,
        [(slice(0, 1), rng.integers(0, 9, (num_items, 1)))],
        [bags(own, rng.integers(0, 9, 5 * num_bags)) for own in lengths.values()],
    )


@settings(max_examples=300)
@given(COUNTS, st.integers(2, 300), st.integers(1, 5), st.integers(1, 70))
def test_slices_hold_each_item_once_and_are_shared_out_evenly(
    counts: list[int], max_rows: int, num_hands: int, waking_rows: int
) -> None:
    queries = [query(count, 0, is_shared=True) for count in counts]
    slices = cut(queries, max_rows, num_hands, waking_rows)
    sizes = [sum(piece.stop - piece.start for piece in own.pieces) for own in slices]
    assert [own.row for own in slices] == [0, *accumulate(sizes)][:-1]
    held = [
        (next(n for n, asked in enumerate(queries) if asked is piece.query), item)
        for own in slices
        for piece in own.pieces
        for item in range(piece.start, piece.stop)
    ]
    assert held == [(number, item) for number, n in enumerate(counts) for item in range(n)]
    assert len(set(sizes[:-1])) <= 1
    assert all(0 < size <= min(sizes[0], max_rows) for size in sizes)
    if sum(sizes) >= waking_rows * num_hands:
        assert len(slices) >= num_hands
    elif sum(sizes) < 2 * waking_rows and sum(sizes) <= max_rows:
        assert len(slices) <= 1


@settings(max_examples=40)
@given(COUNTS, st.integers(2, 300), st.integers(1, 4), st.booleans())
def test_scores_are_the_same_bits_by_any_number_of_hands_and_slices(
    folder: Path, whole: Model, counts: list[int], slice_rows: int, hands: int, is_shared: bool
) -> None:
    queries = [query(count, seed, is_shared=is_shared) for seed, count in enumerate(counts)]
    model = load_model(folder, num_threads=hands, slice_rows=slice_rows)
    found, expected = model.rank(queries), whole.rank(queries)
    assert [scores.tobytes() for scores in found] == [scores.tobytes() for scores in expected]
    for name, array in whole.engine.inputs(query(97, 5)).items():
        np.testing.assert_array_equal(model.engine.inputs(query(97, 5))[name], array)


@pytest.mark.parametrize("hands", [1, 3])
def test_what_is_missing_is_counted_once_by_whoever_finds_it(folder: Path, hands: int) -> None:
    engine = load_model(folder, num_threads=hands, slice_rows=8).engine
    ids = np.zeros((100, 1), np.int64)
    ids[7:70:7] = 99
    shared = [Bags(np.array([1, 99, -2]), np.array([0, 3]))] * 2
    engine.score([Query(100, [(slice(0, 1), ids)], shared)])
    assert engine.missing.tolist() == [9]
    assert engine.missing_in_bags.tolist() == [2, 2]
    own = [Bags(np.tile([1, 99, -2], 100), np.arange(0, 301, 3))] * 2
    engine.score([Query(100, [(slice(0, 1), ids)], own)])
    assert engine.missing.tolist() == [18]
    assert engine.missing_in_bags.tolist() == [202, 202]
    assert {name: count() for name, count in engine.unknown().items()} == {
        "one": 18, "any": 202, "three": 202,
    }  # fmt: skip


def test_threads_end_with_their_engine(folder: Path) -> None:
    before = set(threading.enumerate())
    model = load_model(folder, num_threads=3, slice_rows=8)
    own = set(threading.enumerate()) - before
    assert len(own) == 2
    model.rank([query(100, 1)])
    del model
    gc.collect()
    for thread in own:
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize("hands", [1, 3])
@pytest.mark.parametrize("place", [0, 50, 99])
def test_one_slice_that_fails_fails_the_batch_and_no_other(
    folder: Path, whole: Model, hands: int, place: int
) -> None:
    model = load_model(folder, num_threads=hands, slice_rows=8, memory="copied")
    row = np.load(folder.with_name("pooled.source") / "one.npy")[5].tobytes()
    at = model.engine.arena.bytes.tobytes().index(row)
    ids = np.zeros((100, 1), np.int64)
    ids[place] = 5
    asked, other = replace(query(100, 1), blocks=[(slice(0, 1), ids)]), query(100, 2)
    model.engine.arena.bytes[at : at + len(row)] = 255  # of which no number is made
    with pytest.raises(NotFiniteError):
        model.rank([asked])
    model.engine.arena.bytes[at : at + len(row)] = np.frombuffer(row, np.uint8)
    for queries in ([asked], [other]):
        np.testing.assert_array_equal(model.rank(queries)[0], whole.rank(queries)[0])
