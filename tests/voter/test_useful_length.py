"""How many tokens are asked for: what would have paid, drafting included, and one more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.voter.useful_length import DraftPrice, next_length

chances = st.lists(st.floats(0, 1), max_size=12).map(lambda c: sorted(c, reverse=True))


def test_one_more_is_asked_for_than_would_have_paid() -> None:
    assert next_length([0.9, 0.8, 0.7, 0.6], 0.5, 12) == 5
    assert next_length([0.9] * 12, 0.5, 12) == 12
    assert next_length([0.9, 0.6, 0.3, 0.1], 0.5, 12) == 3
    assert next_length([], 0.5, 12) == 1
    assert next_length([0.9] * 8, 0.5, 1) == 1


@given(chances, st.floats(0, 1), st.floats(0, 1), st.integers(1, 12))
def test_the_dearer_a_token_is_the_fewer_are_asked_for(
    survival: list[float], price: float, more: float, most: int
) -> None:
    dear, cheap = next_length(survival, price + more, most), next_length(survival, price, most)
    assert 1 <= dear <= cheap <= most


def test_a_drafted_token_costs_what_would_be_emitted_in_its_time() -> None:
    price = DraftPrice()
    assert price.price == 0
    for _ in range(20):
        price.observe(4, 0.002, 3, 0.020)
    # Half a millisecond at 150 tokens a second.
    assert price.price == pytest.approx(0.075)


def test_the_price_follows_when_the_load_changes() -> None:
    price = DraftPrice()
    for step_s in (0.0005, 0.005):
        for _ in range(300):
            price.observe(4, 4 * step_s, 3, 0.020)
    assert price.price == pytest.approx(0.75, rel=0.05)


def test_rounds_that_drafted_nothing_tell_the_rate_alone() -> None:
    price = DraftPrice()
    price.observe(0, 0.0, 1, 0.010)
    assert price.price == 0
    price.observe(4, 0.002, 3, 0.010)
    assert 0.05 < price.price < 0.15
