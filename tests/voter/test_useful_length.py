"""How many tokens are asked for: up to where one brings less than its drafting costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.voter.useful_length import DraftPrice, UsefulLength

MOST = 12
chances = st.lists(st.floats(0, 1), max_size=MOST).map(lambda c: sorted(c, reverse=True))


def settled(
    survival: list[float], price: float, step_s: float, ease: float = 0.5, rounds: int = 200
) -> int:
    """The length after so many rounds alike, of 20 ms and 3 tokens each."""
    useful, asked = UsefulLength(MOST, is_alone=True), 4
    for _ in range(rounds):
        asked = useful.next(asked, survival[:asked], price, ease)
        useful.draft_price.observe(asked, asked * step_s, 3, 0.020)
    return asked


def test_all_is_asked_for_where_all_is_right_and_one_token_where_none_is() -> None:
    assert settled([0.95] * MOST, 0.2, 0.0005) == MOST
    assert settled([0.1] * MOST, 0.2, 0.0005) == 1


def test_a_token_is_asked_for_as_long_as_it_brings_more_than_its_drafting_costs() -> None:
    # Half a millisecond at 150 tokens a second costs 0.075 tokens.
    survival = [0.9, 0.6, 0.5, 0.3, 0.22, 0.2, 0.1]
    assert settled(survival, 0.2, 0.0005) == 4
    assert settled(survival, 0.2, 0.0001) == 5
    assert settled(survival, 0.2, 0.0024) == 2


@given(chances, st.floats(0, 1), st.floats(0, 1), st.integers(0, MOST))
def test_a_length_is_at_least_one_and_at_most_what_is_set(
    survival: list[float], price: float, ease: float, asked: int
) -> None:
    useful = UsefulLength(MOST, is_alone=True)
    for _ in range(5):
        asked = useful.next(asked, survival[:asked], price, ease)
        assert 1 <= asked <= MOST
        useful.draft_price.observe(asked, 0.001, 1, 0.01)


def test_nothing_changes_before_anything_is_known_of_what_drafting_costs() -> None:
    useful = UsefulLength(MOST, is_alone=True)
    assert useful.next(4, [0.9] * 4, 0.1, 0.5) == 4
    assert useful.next(0, [], 0.1, 0.5) == 1


def asked_of_easy_and_hard(useful: UsefulLength, num_rounds: int) -> dict[float, int]:
    """The lengths, by ease, after so many rounds of an easy request and of a hard one."""
    asked = {0.9: 4, 0.1: 4}
    for _ in range(num_rounds):
        for ease, chance in ((0.9, 0.95), (0.1, 0.15)):
            asked[ease] = useful.next(asked[ease], [chance] * asked[ease], 0.2, ease)
            useful.draft_price.observe(asked[ease], 0.0005 * asked[ease], 3, 0.020)
    return asked


def test_easy_and_hard_requests_are_kept_apart() -> None:
    useful = UsefulLength(MOST, is_alone=True)
    assert asked_of_easy_and_hard(useful, 100) == {0.9: MOST, 0.1: 1}


def shared(num_hard: int, step_s: float, rounds: int = 400) -> tuple[int, int]:
    """The lengths of an easy request that shares passes with so many hard ones, and of those."""
    useful = UsefulLength(MOST, is_alone=False)
    asked = [4] * (1 + num_hard)
    for _ in range(rounds):
        longest = max(asked)
        for n, length in enumerate(asked):
            ease, chance = (0.9, 0.95) if n == 0 else (0.1, 0.15)
            asked[n] = useful.next(length, [chance] * length, 0.2, ease)
            useful.draft_price.observe(length, longest * step_s, 3, 0.020)
    return asked[0], max(asked[1:])


def test_who_shares_passes_asks_for_as_much_as_pays_all_who_wait_for_it() -> None:
    assert shared(num_hard=1, step_s=0.0005) == (MOST, 1)
    easy, hard = shared(num_hard=7, step_s=0.0005)
    assert (easy <= 2, hard) == (True, 1), "seven wait for what one of them wins"
    assert shared(num_hard=7, step_s=0.00005) == (MOST, 1), "hardly any time"


def test_what_was_not_worth_asking_for_is_tried_again() -> None:
    useful = UsefulLength(MOST, is_alone=True)
    asked = 4
    for survival in ([0.3] * MOST, [0.95] * MOST):
        for _ in range(200):
            asked = useful.next(asked, survival[:asked], 0.25, 0.5)
            useful.draft_price.observe(asked, 0.0005 * asked, 3, 0.020)
    assert asked == MOST


def test_a_drafted_token_costs_what_would_be_emitted_in_its_time() -> None:
    price = DraftPrice()
    assert price.price is None
    for _ in range(20):
        price.observe(4, 0.002, 3, 0.020)
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
    assert price.price is None
    price.observe(4, 0.002, 3, 0.010)
    assert price.price is not None
    assert 0.05 < price.price < 0.15
