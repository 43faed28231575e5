"""The length controller on synthetic cost curves: it finds the best length, and finds it anew."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.voter.length_controller import LengthController, LengthRule

Curve = Callable[[int], float]
Round = Callable[[int], tuple[int, float]]


def expected_cost(acceptance: float, fixed: float, per_token: float) -> Curve:
    """Seconds per emitted token, were there no chance in it."""

    def cost(length: int) -> float:
        emitted = sum(acceptance**i for i in range(length + 1))
        return (fixed + per_token * (length + 1)) / emitted

    return cost


def chance(random: Random, acceptance: float, fixed: float, per_token: float) -> Round:
    """One round: tokens emitted and seconds, both with noise."""

    def play(length: int) -> tuple[int, float]:
        accepted = 0
        while accepted < length and random.random() < acceptance:
            accepted += 1
        return accepted + 1, (fixed + per_token * (length + 1)) * random.uniform(0.9, 1.1)

    return play


def drive(controller: LengthController, play: Round, rounds: int) -> list[int]:
    lengths = []
    for _ in range(rounds):
        lengths.append(controller.length)
        controller.observe(controller.length, *play(controller.length))
    return lengths


def certain(cost: Curve) -> Round:
    return lambda length: (1, cost(length))


@settings(max_examples=60, deadline=None)
@given(st.floats(0.05, 0.95), st.floats(0.5, 20), st.floats(0.2, 5), st.integers(0, 12))
def test_it_hovers_at_the_optimum_of_a_curve_without_noise(p, fixed, per_token, initial) -> None:
    cost = expected_cost(p, fixed, per_token)
    lengths = drive(LengthController(LengthRule(initial=initial)), certain(cost), 3000)
    assert all(0 <= length <= 12 for length in lengths)
    settled = lengths[1000:]
    best = min(cost(length) for length in range(13))
    assert sum(map(cost, settled)) / len(settled) < 1.12 * best


@pytest.mark.parametrize(
    ("acceptance", "fixed", "per_token"),
    [(0.8, 5.0, 0.75), (0.6, 5.0, 0.75), (0.9, 5.0, 0.75), (0.8, 10.5, 3.6), (0.05, 10.5, 3.6)],
)
def test_it_comes_within_a_tenth_of_the_optimum_in_spite_of_noise(
    acceptance: float, fixed: float, per_token: float
) -> None:
    cost = expected_cost(acceptance, fixed, per_token)
    best = min(cost(length) for length in range(13))
    costs = []
    for seed in range(5):
        play = chance(Random(seed), acceptance, fixed, per_token)
        lengths = drive(LengthController(LengthRule()), play, 3000)
        costs.append(sum(map(cost, lengths)) / len(lengths))
    assert sum(costs) / len(costs) < 1.1 * best


def test_it_stops_drafting_where_no_draft_pays_and_only_probes() -> None:
    play = chance(Random(1), 0.02, 5.0, 2.0)
    lengths = drive(LengthController(LengthRule()), play, 4000)
    assert lengths[-3000:].count(0) > 0.95 * 3000
    assert max(lengths[-3000:]) > 0


@pytest.mark.parametrize("seed", range(4))
def test_it_comes_back_from_zero_when_drafts_begin_to_pay(seed: int) -> None:
    controller = LengthController(LengthRule())
    random = Random(seed)
    drive(controller, chance(random, 0.02, 5.0, 2.0), 4000)
    lengths = drive(controller, chance(random, 0.9, 5.0, 0.75), 1500)
    assert max(lengths[:1000]) >= 4
    assert sum(lengths[1000:]) / 500 > 4


@pytest.mark.parametrize("seed", range(4))
def test_it_comes_down_when_drafts_cease_to_pay(seed: int) -> None:
    controller = LengthController(LengthRule())
    random = Random(seed)
    drive(controller, chance(random, 0.95, 5.0, 0.5), 2000)
    lengths = drive(controller, chance(random, 0.02, 5.0, 2.0), 1500)
    assert sum(lengths[1000:]) / 500 < 1


def test_a_length_is_kept_until_the_decision_threshold_and_a_look_at_plain_decoding_is_short() -> (
    None
):
    controller = LengthController(LengthRule(initial=4, decision_threshold=10))
    lengths = drive(controller, certain(expected_cost(0.8, 5.0, 0.75)), 30)
    assert lengths[:10] == [4] * 10
    assert lengths[10:14] == [0] * 4
    assert lengths[14:24] == [lengths[14]] * 10
    assert lengths[14] not in (0, 4)


def test_the_first_rounds_of_a_look_may_be_left_out() -> None:
    rule = LengthRule(initial=4, decision_threshold=10, plain_look=10, num_skipped=5)
    controller = LengthController(rule)

    def play(length: int) -> tuple[int, float]:
        # Plain decoding is cheap, but not at once.
        nonlocal num_plain
        num_plain = num_plain + 1 if length == 0 else 0
        return 1, 9.0 if 0 < num_plain <= 5 else 1.0 if length == 0 else 2.0

    num_plain = 0
    lengths = drive(controller, play, 60)
    assert lengths[:35] == [4] * 10 + [0] * 25


def test_rounds_still_under_way_with_the_old_length_do_not_decide() -> None:
    controller = LengthController(LengthRule(initial=4, decision_threshold=10))
    drive(controller, certain(expected_cost(0.8, 5.0, 0.75)), 14)
    changed = controller.length
    for _ in range(9):
        controller.observe(4, 1, 1.0)
        controller.observe(changed, 1, 2.0)
    assert controller.length == changed
    controller.observe(changed, 1, 2.0)
    assert controller.length != changed


def test_a_verifier_that_grants_less_than_told_does_not_stop_it() -> None:
    cost = expected_cost(0.3, 5.0, 3.0)
    controller = LengthController(LengthRule(initial=12))
    for _ in range(4000):
        granted = min(controller.length, 3)
        controller.observe(granted, 1, cost(granted))
    assert controller.length <= 2


def test_a_verifier_that_never_drafts_does_not_stop_it() -> None:
    controller = LengthController(LengthRule())
    for _ in range(1000):
        controller.observe(0, 1, 1.0)
    assert controller.length <= 12


def test_the_steps_are_those_of_the_rule() -> None:
    rule = LengthRule(
        initial=6, decision_threshold=1, window=2, step=2, penalty_step=3, plain_look=1
    )
    controller = LengthController(rule)
    seen = drive(controller, certain(lambda length: 100.0 - length), 7)
    assert [length for length in seen if length] == [6, 8, 10, 12]
    seen = drive(controller, certain(lambda length: 100.0 + length if length else 200.0), 8)
    # One step down to look, then the penalty step.
    assert [length for length in seen if length][:5] == [12, 12, 12, 10, 7]


@pytest.mark.parametrize("seed", range(4))
def test_it_decodes_plainly_where_every_length_costs_more_however_they_compare(seed: int) -> None:
    """The first drafted token brings a cost of its own: length 1 is dearer than 0, 8 than neither
    of its neighbours."""
    random = Random(seed)
    drafting = chance(random, 0.7, 6.0, 0.2)

    def play(length: int) -> tuple[int, float]:
        return drafting(length) if length else (1, 1.5)

    lengths = drive(LengthController(LengthRule()), play, 4000)
    assert lengths[1000:].count(0) > 0.85 * 3000


@pytest.mark.parametrize("seed", range(4))
def test_it_drafts_where_only_long_drafts_pay(seed: int) -> None:
    """From 0, a step to 1 would look like a loss."""
    random = Random(seed)
    drafting = chance(random, 0.85, 6.0, 0.2)

    def play(length: int) -> tuple[int, float]:
        return drafting(length) if length else (1, 2.5)

    lengths = drive(LengthController(LengthRule(initial=0)), play, 4000)
    assert lengths[2000:].count(0) < 0.1 * 2000
    assert sum(lengths[2000:]) / 2000 > 4


def test_the_highest_length_may_be_zero() -> None:
    lengths = drive(LengthController(LengthRule(max_length=0)), certain(lambda _: 1.0), 500)
    assert set(lengths) == {0}
