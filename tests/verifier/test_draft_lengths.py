"""How many draft tokens are verified: never worse than any other choice."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.verifier.draft_lengths import choose_lengths, highest_gain, token_price
from services.verifier.pass_cost import PassCost, Shape, fitting

probabilities = st.lists(st.floats(0.0, 1.0), max_size=4).map(
    lambda values: list(itertools.accumulate(values, lambda a, b: a * b))
)


def alone(num_tokens: int) -> Shape:
    return Shape().joined(0, num_tokens)


costs = st.tuples(st.floats(0.1, 20.0), st.floats(0.0, 3.0)).map(
    lambda ab: lambda tokens: ab[0] + ab[1] * tokens
)


@given(
    st.lists(st.tuples(probabilities, st.integers(1, 3)), min_size=1, max_size=4),
    costs,
    st.floats(0.0, 10.0),
    st.integers(0, 3),
    st.sampled_from((0.0, 0.1, 1.0, 5.0)),
)
def test_no_choice_has_a_higher_rate(requests, seconds, between_s, num_between, padding_s) -> None:
    survivals, others = zip(*requests, strict=True)
    num_slots = len(requests) + num_between

    def rate(lengths) -> float:
        expected = len(lengths) + sum(sum(s[:n]) for s, n in zip(survivals, lengths, strict=True))
        rows = [a + b for a, b in zip(others, lengths, strict=True)]
        padding = num_slots * max(rows) - sum(rows)
        return expected / (seconds(sum(rows)) + padding * padding_s + between_s)

    chosen = choose_lengths(survivals, others, seconds, between_s, num_slots, padding_s)
    best = max(map(rate, itertools.product(*(range(len(s) + 1) for s in survivals))))
    assert rate(chosen) >= best * (1 - 1e-9)


def test_a_free_token_is_always_taken_and_one_as_dear_as_a_round_never() -> None:
    likely = [[0.9, 0.8, 0.7]] * 3
    assert choose_lengths(likely, [1, 1, 1], lambda _: 1.0) == [3, 3, 3]
    assert choose_lengths(likely, [1, 1, 1], lambda tokens: float(tokens)) == [0, 0, 0]


def test_what_is_more_probable_goes_first() -> None:
    chosen = choose_lengths([[0.9, 0.85], [0.3, 0.2]], [1, 1], lambda tokens: 3.0 + tokens)
    assert chosen == [2, 0]


def test_no_row_is_much_longer_than_the_others_where_padding_is_dear() -> None:
    survivals = [[0.9, 0.85, 0.8, 0.75], *[[0.5]] * 7]
    given = (survivals, [1] * 8, lambda tokens: 30.0 + tokens, 0.0, 8)
    assert choose_lengths(*given, padding_s=0.0) == [4, *[1] * 7]
    assert choose_lengths(*given, padding_s=0.8) == [1] * 8


def test_the_price_is_where_one_more_token_stops_to_pay() -> None:
    def seconds(tokens: int) -> float:
        return 10.0 + tokens

    price = token_price(2.0, 4, seconds)
    assert (2.0 + price) / seconds(5) == 2.0 / seconds(4)


@given(st.floats(0.0, 1.0), st.integers(1, 4), costs)
def test_the_highest_gain_is_that_of_the_best_lengths(acceptance, num_requests, seconds) -> None:
    survival = [acceptance**place for place in range(1, 5)]
    (length,) = choose_lengths([survival], [1], lambda tokens: seconds(tokens * num_requests))
    rate = (1 + sum(survival[:length])) / seconds((1 + length) * num_requests)
    expected = pytest.approx(rate * seconds(num_requests))
    assert highest_gain(num_requests, acceptance, 4, seconds) == expected


def test_drafts_can_bring_nothing_where_a_token_costs_as_much_as_a_request() -> None:
    assert highest_gain(32, 0.9, 8, lambda tokens: float(tokens)) == 1.0
    assert highest_gain(32, 1.0, 8, lambda _: 1.0) == 9.0


@given(st.lists(st.tuples(st.integers(1, 300), st.floats(0.001, 10.0)), max_size=60))
def test_an_estimate_never_falls_with_the_tokens(passes) -> None:
    cost = PassCost({2: 1.0, 8: 1.2, 32: 2.0, 128: 7.0})
    for tokens, seconds in passes:
        cost.observe(alone(tokens), seconds)
    estimates = [cost.seconds(tokens) for tokens in range(1, 300)]
    assert all(0 < a <= b for a, b in itertools.pairwise(estimates))


def test_an_estimate_comes_near_what_passes_cost() -> None:
    cost = PassCost({2: 1.0, 8: 1.0, 32: 1.0, 128: 1.0})
    for _ in range(200):
        for tokens in (2, 5, 8, 20, 32, 60, 128, 200):
            cost.observe(alone(tokens), 0.5 + 0.02 * tokens)
    for tokens in (3, 16, 50, 100, 180):
        assert abs(cost.seconds(tokens) / (0.5 + 0.02 * tokens) - 1) < 0.1


def test_steps_between_the_sizes_that_were_measured_come_out() -> None:
    """Six tokens cost as much as three, seven as much as twelve."""
    cost = PassCost({2: 1.0, 32: 6.0, 128: 22.0})
    for _ in range(100):
        for tokens in range(2, 33):
            cost.observe(alone(tokens), float(-(-tokens // 6)))
    for tokens in (3, 6, 7, 12, 13, 18):
        assert abs(cost.seconds(tokens) / -(-tokens // 6) - 1) < 0.1


def test_what_lies_beyond_is_not_judged_by_two_sizes_that_differ_by_chance() -> None:
    """Of 31 and 32 tokens, told apart, the larger pass met a busy machine each time."""
    cost = PassCost({2: 0.012, 8: 0.018, 32: 0.034})
    for _ in range(30):
        cost.observe(alone(31), 0.033)
        cost.observe(alone(32), 0.045)
    assert cost.seconds(256) < 2 * (0.012 + 256 * 0.0007)


@given(
    st.integers(1, 200), st.floats(0.0, 5.0), st.integers(0, 300), st.sampled_from((0.0, 0.01, 2.0))
)
def test_what_fits_fits_and_one_more_would_not(
    tokens: int, budget_s: float, most: int, each_s: float
) -> None:
    cost = PassCost({2: 1.0, 8: 1.2, 32: 2.0, 128: 7.0})

    def seconds(count: int) -> float:
        return cost.seconds(tokens + count) + count * each_s

    limit_s = cost.seconds(tokens) + budget_s
    count = fitting(seconds, limit_s, most)
    assert seconds(count) <= limit_s
    assert count == most or seconds(count + 1) > limit_s


def test_what_telling_takes_is_learned() -> None:
    cost = PassCost({2: 1.0, 8: 1.2, 32: 2.0, 128: 7.0}, telling_s=0.5)
    for tokens in (2, 8, 20, 32, 64, 100) * 20:
        seconds = cost.seconds(tokens) + tokens // 2 * 0.02
        cost.observe_telling(alone(tokens), tokens // 2, seconds)
    assert cost.telling_s == pytest.approx(0.02, rel=0.01)


slots_and_lengths = st.tuples(st.integers(0, 9), st.integers(1, 9))


@given(st.lists(slots_and_lengths, min_size=1, max_size=6, unique_by=lambda row: row[0]))
def test_a_shape_has_the_places_that_attention_sees(rows) -> None:
    shape = Shape()
    for slot, num_tokens in rows:
        shape = shape.joined(slot, num_tokens)
    slots, lengths = zip(*rows, strict=True)
    assert shape.num_tokens == sum(lengths)
    places = (max(slots) - min(slots) + 1) * max(lengths)
    assert shape.num_tokens + shape.num_padding == places


def test_what_padding_takes_is_learned_beside_what_tokens_take() -> None:
    cost = PassCost({2: 1.0, 8: 1.2, 32: 2.0, 128: 7.0}, padding_s=0.5)
    even = [Shape(8 * length, length, 0, 7) for length in (1, 2, 4, 8)]
    uneven = [Shape().joined(0, 1).joined(slot, length) for slot in (3, 7) for length in (9, 25)]
    for shape in (even + uneven) * 60:
        cost.observe(shape, 0.5 + 0.02 * shape.num_tokens + 0.01 * shape.num_padding)
    assert cost.padding_s == pytest.approx(0.01, rel=0.2)
    for shape in even + uneven:
        seconds = 0.5 + 0.02 * shape.num_tokens + 0.01 * shape.num_padding
        assert cost.of(shape) == pytest.approx(seconds, rel=0.15)


def test_padding_that_was_held_for_dear_is_found_cheap_again() -> None:
    """By passes that are nearly even, the only ones left where padding is avoided; and one pass
    that the machine held up does not make it dear."""
    cost = PassCost({2: 1.0, 8: 1.2, 32: 2.0, 128: 7.0}, padding_s=0.01)
    cost.observe(Shape(9, 8, 0, 7), 1000.0)
    assert cost.padding_s < 0.02
    cost.padding_s = 0.5
    nearly_even = Shape(28, 4, 0, 7)
    for _ in range(3000):
        cost.observe(nearly_even, 0.5 + 0.02 * 28 + 0.01 * nearly_even.num_padding)
        cost.observe(Shape(32, 4, 0, 7), 0.5 + 0.02 * 32)
    assert cost.padding_s < 0.1
