"""Lookups equal a plain loop, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.recommender.layout import Pooling
from services.recommender.ranking import top
from services.recommender.tables import look_up, pool

NUM_ROWS = 50


def table(dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((NUM_ROWS, dim), np.float32)


def pool_plainly(values: np.ndarray, bag: list[int], pooling: Pooling) -> np.ndarray:
    """One value after the other, in float32."""
    total = np.zeros(values.shape[1], np.float32)
    for row in bag:
        total = total + values[row]
    return total / np.float32(max(len(bag), 1)) if pooling == "mean" else total


@settings(max_examples=200)
@given(
    st.integers(1, 33),
    st.lists(st.lists(st.integers(0, NUM_ROWS - 1), max_size=40), min_size=1, max_size=12),
    st.sampled_from(["sum", "mean"]),
)
def test_pooled_lookups_equal_a_loop_over_the_values(
    dim: int, bags: list[list[int]], pooling: Pooling
) -> None:
    values = table(dim)
    buffer = np.full((len(bags), dim + 5), np.nan, np.float32)
    pool(values, bags, pooling, buffer[:, 2 : 2 + dim])
    for bag, got in zip(bags, buffer[:, 2 : 2 + dim], strict=True):
        assert got.tobytes() == pool_plainly(values, bag, pooling).tobytes()
    assert np.isnan(buffer[:, :2]).all()
    assert np.isnan(buffer[:, 2 + dim :]).all()


@given(st.integers(1, 33), st.lists(st.integers(0, NUM_ROWS - 1), max_size=60))
def test_lookups_copy_the_rows(dim: int, rows: list[int]) -> None:
    values = table(dim)
    out = np.empty((len(rows), dim), np.float32)
    look_up(values, np.array(rows, np.int32), out)
    assert [row.tobytes() for row in out] == [values[row].tobytes() for row in rows]


def test_a_row_outside_of_the_table_is_never_read() -> None:
    with pytest.raises(IndexError):
        look_up(table(4), np.array([NUM_ROWS]), np.empty((1, 4), np.float32))


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 40))
def test_the_best_come_first_and_ties_keep_their_order(values: list[int], k: int) -> None:
    scores = np.array(values, np.float32)
    expected = sorted(range(len(values)), key=lambda place: (-values[place], place))[:k]
    assert top(scores, k).tolist() == expected
