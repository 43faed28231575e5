"""What drafts could bring at most, by what passes cost."""

from __future__ import annotations

import pytest

from benchmarks.limits import LONGEST, most


def test_where_more_tokens_cost_nothing_the_longest_draft_brings_its_length() -> None:
    free = {(1, length): 0.02 for length in range(1, LONGEST + 1)}
    assert most(free, 1, 1.0) == (pytest.approx(LONGEST), LONGEST)
    ratio, length = most(free, 1, 0.5)
    assert (ratio, length) == (pytest.approx(2 - 0.5 ** (LONGEST - 1)), LONGEST)


def test_where_each_token_costs_as_much_as_the_first_no_draft_pays() -> None:
    dear = {(8, length): 0.02 * length for length in range(1, LONGEST + 1)}
    assert most(dear, 8, 0.9) == (1.0, 1)


def test_the_step_in_the_cost_decides_how_long_a_draft_pays() -> None:
    stepped = {(4, length): 0.02 if length <= 3 else 0.06 for length in range(1, LONGEST + 1)}
    assert most(stepped, 4, 1.0) == (pytest.approx(3.0), 3)
