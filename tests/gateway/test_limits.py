"""A key's share: never more than it, and nothing of it lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.limits import Bucket, Limits, Meter
from shared.errors import OverloadedError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


STEPS = st.lists(st.tuples(st.floats(0, 90), st.integers(0, 40)), max_size=60)


@given(st.integers(1, 30), STEPS)
def test_a_minute_never_lets_more_than_two_shares_through(
    share: int, steps: list[tuple[float, int]]
) -> None:
    """A full bucket, and what fills it meanwhile."""
    clock = Clock()
    bucket = Bucket("tokens", share, clock)
    taken: list[tuple[float, int]] = []
    for pause, amount in steps:
        clock.now += pause
        if amount > bucket.level:
            with pytest.raises(OverloadedError):
                bucket.take(amount)
        else:
            bucket.take(amount)
            taken.append((clock.now, amount))
        for start, _ in taken:
            within = sum(n for at, n in taken if start <= at <= start + 60)
            assert within <= 2 * share + 1e-6


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_after_the_wait_that_it_names_there_is_room(share: int, amount: int) -> None:
    clock = Clock()
    bucket = Bucket("tokens", share, clock)
    bucket.take(share)
    if amount > share:
        with pytest.raises(
            OverloadedError, match=f"asks for {amount} tokens; this key has {share}"
        ):
            bucket.take(amount)
        return
    with pytest.raises(OverloadedError, match="has used its") as refused:
        bucket.take(amount)
    clock.now += refused.value.retry_after_s + 1e-6
    bucket.take(amount)


def test_what_is_given_back_may_be_taken_again_but_no_more() -> None:
    clock = Clock()
    meter = Meter(Limits(tokens_per_minute=10), clock)
    meter.take_tokens(10)
    meter.give_back_tokens(6)
    meter.take_tokens(6)
    meter.give_back_tokens(50)
    assert meter.headers()["x-ratelimit-remaining-tokens"] == "10"


def test_requests_at_a_time_are_counted_until_they_end() -> None:
    meter = Meter(Limits(max_in_flight=1), Clock())
    with meter.enter(), pytest.raises(OverloadedError, match="1 requests of this key are"):
        meter.enter().__enter__()
    with pytest.raises(ValueError, match="mine"), meter.enter():
        raise ValueError("mine")
    with meter.enter():
        assert meter.num_in_flight == 1
    assert meter.headers() == {}


def test_headers_tell_what_is_left_and_when_all_is_there() -> None:
    clock = Clock()
    meter = Meter(Limits(requests_per_minute=6, tokens_per_minute=600), clock)
    with meter.enter():
        meter.take_tokens(60)
    assert meter.headers() == {
        "x-ratelimit-limit-requests": "6",
        "x-ratelimit-remaining-requests": "5",
        "x-ratelimit-reset-requests": "10.000s",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "540",
        "x-ratelimit-reset-tokens": "6.000s",
    }
