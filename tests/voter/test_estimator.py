"""The estimator: its chances come true, and it finds out who is to be believed, and when."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from services.voter.estimator import Estimator, Opinion

opinions = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.lists(st.tuples(st.integers(0, 3), st.floats(0, 9)), max_size=5)
    ),
    max_size=4,
    unique_by=lambda o: o[0],
).map(lambda found: [Opinion(n, [t for t, _ in p], [m for _, m in p]) for n, p in found])


@given(opinions, st.floats(0, 1), st.integers(0, 6), st.lists(st.integers(0, 3), max_size=6))
def test_a_draft_is_one_drafters_and_its_chances_never_rise(
    found: list[Opinion], ease: float, max_length: int, emitted: list[int]
) -> None:
    estimator = Estimator()
    for _ in range(3):
        path, survival = estimator.draft(found, ease, max_length)
        assert len(path) == len(survival) <= max_length
        assert any(list(o.tokens[: len(path)]) == path for o in found) or not path
        assert all(0 < chance < 1 for chance in survival)
        assert survival == sorted(survival, reverse=True)
        assert estimator.follow(path, found, ease) == survival
        assert estimator.draft(found[::-1], ease, max_length) == (path, survival)
        estimator.learn(found, emitted, ease)


def play(estimator: Estimator, random: Random, rounds: int) -> list[tuple[float, bool]]:
    """One drafter is right nine times of ten where it is sure and one of three where it is not,
    the other one always half the time; how each first token was judged, and whether it was right.
    """
    judged = []
    for _ in range(rounds):
        right = [random.randrange(100) for _ in range(3)]
        is_sure = random.random() < 0.5
        good = [t if random.random() < (0.9 if is_sure else 0.33) else 999 for t in right]
        fair = [t if random.random() < 0.5 else 998 for t in right]
        found = [Opinion("good", good, [5.0 if is_sure else 0.1] * 3),
                 Opinion("fair", fair, [2.0] * 3)]  # fmt: skip
        path, survival = estimator.draft(found, 0.5, 3)
        judged.append((survival[0], path[0] == right[0]))
        estimator.learn(found, right, 0.5)
    return judged


def test_chances_come_true() -> None:
    estimator, random = Estimator(), Random(1)
    play(estimator, random, 500)
    judged = play(estimator, random, 4000)
    for low in (0.2, 0.4, 0.6, 0.8):
        near = [is_right for chance, is_right in judged if low <= chance < low + 0.2]
        believed = [chance for chance, _ in judged if low <= chance < low + 0.2]
        if len(near) > 200:
            assert abs(sum(near) / len(near) - sum(believed) / len(believed)) < 0.07


def test_it_sides_with_whoever_is_right_where_they_are_that_sure() -> None:
    estimator = Estimator()
    play(estimator, Random(2), 500)
    for margin, winner in ((5.0, 7), (0.1, 8)):
        found = [Opinion("good", [7], [margin]), Opinion("fair", [8], [2.0])]
        assert estimator.draft(found, 0.5, 1)[0] == [winner]


def test_it_forgets_what_no_longer_holds() -> None:
    estimator = Estimator()
    found = [Opinion("a", [1], [3.0])]
    for right in (1, 2):
        for _ in range(300):
            estimator.learn(found, [right], 0.5)
        chance = estimator.draft(found, 0.5, 1)[1][0]
        assert chance > 0.9 if right == 1 else chance < 0.1


def test_nobody_is_against_what_all_of_many_propose() -> None:
    estimator = Estimator()
    split = [Opinion(name, [1 if name != "d" else 2], [0.0]) for name in "abcd"]
    before = estimator.follow([1], split, 0.9)
    agreed = [Opinion(name, [1], [0.0]) for name in "efgh"]
    for _ in range(100):
        estimator.learn(agreed, [2], 0.1)
    assert estimator.follow([1], split, 0.9) == before
    assert estimator.follow([1], agreed, 0.1) < [0.1]
