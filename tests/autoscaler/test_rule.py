"""The rule under every load: within its bounds, never flapping, never in haste."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.autoscaler.rule import Controller, Rule, Sample

RULE = Rule(1, 8, high=0.8, low=0.4, max_queue_age_s=1.0, cool_down_s=10.0, calm_samples=3)

rules = st.builds(
    lambda least, more, low, gap, cool_down_s, calm: Rule(
        least, least + more, min(0.95, low + gap), low, 1.0, cool_down_s, calm
    ),
    st.integers(1, 4),
    st.integers(0, 8),
    st.floats(0.0, 0.9),
    st.floats(0.05, 1.0),
    st.floats(0.0, 20.0),
    st.integers(1, 6),
)
# Seconds to the next look, the utilisations of those that answer, and the age of the queue.
looks = st.lists(
    st.tuples(st.floats(0.1, 5.0), st.lists(st.floats(0.0, 2.0), max_size=12), st.floats(0.0, 3.0)),
    max_size=60,
)


def even(load: float, replicas: int) -> list[float]:
    """A load shared out evenly, as far as replicas can work."""
    return [min(1.0, load / replicas)] * replicas


def drive(rule: Rule, replicas: int, samples: Iterable[Callable[[int], Sample]]) -> list[int]:
    """The replicas before each sample, if what is wanted is done at once, and after the last."""
    controller, counts = Controller(rule), [replicas]
    for sample in samples:
        counts.append(controller.wanted(sample(counts[-1])))
    return counts


def steady(load: float, count: int, interval_s: float = 1.0) -> list[Callable[[int], Sample]]:
    return [lambda n, i=i: Sample(i * interval_s, n, even(load, n)) for i in range(count)]


def shown(looks: list[tuple[float, list[float], float]]) -> list[Callable[[int], Sample]]:
    """Samples of looks at times that only go on."""
    samples: list[Callable[[int], Sample]] = []
    at = 0.0
    for after_s, busy, age_s in looks:
        at += after_s
        samples.append(lambda n, at=at, busy=busy, age_s=age_s: Sample(at, n, busy[:n], age_s))
    return samples


@given(rules, st.integers(0, 8), looks)
def test_the_bounds_are_kept(rule: Rule, start: int, seen: list) -> None:
    first = min(rule.min_replicas + start, rule.max_replicas)
    counts = drive(rule, first, shown(seen))
    assert all(rule.min_replicas <= count <= rule.max_replicas for count in counts)


@given(rules, st.integers(1, 20), looks)
def test_from_outside_the_bounds_every_step_leads_to_them(
    rule: Rule, start: int, seen: list
) -> None:
    def excess(count: int) -> int:
        return max(rule.min_replicas - count, count - rule.max_replicas, 0)

    counts = drive(rule, start, shown(seen))
    for before, after in pairwise(counts):
        assert excess(after) < excess(before) or after == before or excess(before) == 0


@given(rules, st.floats(0.0, 12.0), st.integers(0, 8))
def test_a_steady_load_comes_to_rest_and_stays_there(rule: Rule, load: float, start: int) -> None:
    first = min(rule.min_replicas + start, rule.max_replicas)
    span = int(rule.cool_down_s) + rule.calm_samples + 1
    counts = drive(rule, first, steady(load, 14 * span))
    settled = counts[13 * span :]
    assert len(set(settled)) == 1
    assert load <= rule.high * settled[0] * (1 + 1e-9) or settled[0] == rule.max_replicas


@given(rules, st.floats(0.0, 12.0), st.integers(0, 8))
def test_a_steady_load_never_turns_the_direction(rule: Rule, load: float, start: int) -> None:
    first = min(rule.min_replicas + start, rule.max_replicas)
    counts = drive(rule, first, steady(load, 300))
    changes = [after - before for before, after in pairwise(counts)]
    assert not (any(c > 0 for c in changes) and any(c < 0 for c in changes))


@given(rules, st.integers(1, 20), looks)
def test_no_two_changes_within_a_cool_down(rule: Rule, start: int, seen: list) -> None:
    samples = shown(seen)
    counts = drive(rule, start, samples)
    times = [
        sample(n).at
        for sample, n, after in zip(samples, counts, counts[1:], strict=False)
        if after != n
    ]
    for one, next_ in pairwise(times):
        assert next_ - one >= rule.cool_down_s - 1e-9


@given(rules, st.integers(0, 8), looks)
def test_down_is_one_at_a_time_and_after_calm(rule: Rule, start: int, seen: list) -> None:
    first = min(rule.min_replicas + start, rule.max_replicas)
    samples = shown(seen)
    counts = drive(rule, first, samples)
    for i, (before, after) in enumerate(pairwise(counts)):
        if after >= before:
            continue
        assert after == before - 1
        window = [
            sample(n)
            for sample, n in zip(samples[: i + 1], counts, strict=False)
        ][-rule.calm_samples :]  # fmt: skip
        assert len(window) == rule.calm_samples
        for sample in window:
            assert sample.replicas == before
            assert len(sample.utilisations) == before, "a silent replica may be a busy one"
            assert sample.load < rule.high * after
            assert sample.queue_age_s <= rule.max_queue_age_s


@pytest.mark.parametrize(
    ("utilisations", "wanted"),
    [
        ([0.8], 1),
        ([0.9], 2),
        ([1.0, 1.0], 3),
        ([1.0] * 4, 5),
        ([1.6, 1.6], 4),
        ([1.0, 0.4], 2),
        ([1.0] * 7, 8),
        ([2.0] * 8, 8),
    ],
)
def test_up_is_in_proportion_and_at_once(utilisations: list[float], wanted: int) -> None:
    assert Controller(RULE).wanted(Sample(0.0, len(utilisations), utilisations)) == wanted


def test_a_replica_that_starts_is_counted_before_it_answers() -> None:
    controller = Controller(RULE)
    assert controller.wanted(Sample(0.0, 1, [1.0])) == 2
    assert controller.wanted(Sample(20.0, 2, [1.0])) == 2


def test_a_queue_that_waits_adds_one_whatever_the_replicas_say() -> None:
    assert Controller(RULE).wanted(Sample(0.0, 2, [], 1.1)) == 3
    assert Controller(RULE).wanted(Sample(0.0, 2, [0.1, 0.1], 1.1)) == 3
    assert Controller(RULE).wanted(Sample(0.0, 2, [0.1, 0.1], 1.0)) == 2


def test_a_change_from_outside_starts_a_cool_down() -> None:
    """As a rolling update makes them: as many again, and then the old ones leave."""
    controller = Controller(RULE)
    for at in range(5):
        assert controller.wanted(Sample(float(at), 2, [0.6, 0.6])) == 2
    for at in range(5, 15):
        assert controller.wanted(Sample(float(at), 4, [0.1] * 4)) == 4
    assert controller.wanted(Sample(15.0, 4, [0.1] * 4)) == 3


def test_a_load_between_two_counts_is_not_chased_by_chance() -> None:
    """Just below what one replica less could do: noise alone must not go down, up, down."""
    loads = [0.79, 0.78, 0.795, 0.77] * 30
    samples = [lambda n, i=i, x=x: Sample(float(i), n, even(x, n)) for i, x in enumerate(loads)]
    assert set(drive(RULE, 2, samples)) == {2}


def test_a_step_of_load_brings_replicas_up_and_its_end_brings_them_down() -> None:
    loads = [0.3] * 20 + [3.0] * 60 + [0.3] * 120
    samples = [lambda n, i=i, x=x: Sample(float(i), n, even(x, n)) for i, x in enumerate(loads)]
    counts = drive(RULE, 1, samples)
    steps = [after for before, after in pairwise(counts) if after != before]
    assert steps == [2, 3, 4, 3, 2, 1]
