"""Who drafts: whatever brings most, found at little cost and found anew when things change."""

from __future__ import annotations

from random import Random

from services.verifier.drafting import Drafters, Drafting, Way

WAYS = (Way("all"), Way("lookup"), Way("none"))


def play(
    drafting: Drafting,
    rates: dict[Drafters, float],
    passes: int,
    num_running: int = 8,
    seed: int = 0,
) -> dict[Drafters, int]:
    """Passes that bring tokens at these rates, give or take a tenth; how many went which way."""
    random = Random(seed)
    ways: dict[Drafters, int] = {"all": 0, "lookup": 0, "none": 0}
    for _ in range(passes):
        way = drafting.way(num_running).drafters
        ways[way] += 1
        drafting.observe(num_running, 20, 20 / rates[way] * random.uniform(0.9, 1.1))
    return ways


def test_it_stays_with_the_best_and_tries_others_ever_more_rarely() -> None:
    for best in ("all", "lookup", "none"):
        rates: dict[Drafters, float] = {"all": 100.0, "lookup": 100.0, "none": 100.0, best: 150.0}
        drafting = Drafting(WAYS, lambda _, rates=rates: rates["none"])
        play(drafting, rates, 2000)
        ways = play(drafting, rates, 5000)
        assert ways[best] > 0.96 * 5000


def test_it_follows_when_another_way_becomes_the_best() -> None:
    rates: dict[Drafters, float] = {"all": 200.0, "lookup": 120.0, "none": 100.0}
    drafting = Drafting(WAYS, lambda _: rates["none"])
    play(drafting, rates, 3000)
    rates["all"] = 50.0
    play(drafting, rates, 1500)
    assert play(drafting, rates, 1000)["all"] < 100


def test_plain_decoding_is_not_tried_where_it_cannot_win() -> None:
    rates: dict[Drafters, float] = {"all": 300.0, "lookup": 200.0, "none": 100.0}
    assert play(Drafting(WAYS, lambda _: 100.0), rates, 5000)["none"] == 0


def test_each_level_of_load_has_its_own_way() -> None:
    drafting = Drafting(WAYS, lambda _: 100.0)
    for _ in range(3):
        play(drafting, {"all": 300.0, "lookup": 100.0, "none": 100.0}, 500, num_running=1)
        play(drafting, {"all": 50.0, "lookup": 60.0, "none": 100.0}, 500, num_running=30)
    assert drafting.way(1).drafters == "all"
    assert drafting.way(30).drafters == "none"


def test_a_load_that_never_stays_the_same_is_learned_from() -> None:
    """Short requests: each level lasts a few passes at a time."""
    rates: dict[Drafters, float] = {"all": 50.0, "lookup": 60.0, "none": 100.0}
    drafting = Drafting(WAYS, lambda _: 100.0)
    num_plain = 0
    for number in range(600):
        for num_running in (1, 2, 4, 3, 1):
            ways = play(drafting, rates, 3, num_running, seed=number)
            num_plain += ways["none"] if number >= 300 else 0
    assert num_plain > 0.85 * 300 * 15
