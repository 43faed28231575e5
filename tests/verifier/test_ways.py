"""Which ways to draft are tried: by what drafters there are, and what they were right in."""

from __future__ import annotations

import pytest

from services.verifier.drafting import Drafters, Drafting, Load, Way

EIGHT = Load(8, 0)
LOOKED_UP = (Way("needed"), Way("lookup"), Way("none"))


def test_plain_decoding_may_have_lanes_too() -> None:
    """Two ways that draft nothing are compared as any others are."""
    one, two = Way("none"), Way("none", 2)
    drafting = Drafting([one, two], lambda num_running: 100.0)
    load = Load(2, 0)
    seen = set()
    for _ in range(1000):
        seen.add(way := drafting.way(load))
        drafting.observe(load, 2, 0.02 if way == two else 0.04)
    assert seen == {one, two}
    assert drafting.way(load) == two


@pytest.mark.parametrize(
    ("num_agreed", "is_tried"), [(0, False), (1, False), (4, True)], ids=["none", "one", "four"]
)
def test_looking_up_alone_is_tried_if_it_should_bring_more(num_agreed: int, is_tried: bool) -> None:
    """Drafts that are computed bring twice what plain decoding does; a pass over three tokens each
    costs as much as one over a single one."""
    drafting = Drafting(LOOKED_UP, lambda num_tokens: num_tokens / max(0.08, 0.003 * num_tokens))
    tried = 0
    for _ in range(2000):
        way = drafting.way(EIGHT)
        tried += way.drafters == "lookup"
        if way.drafters == "needed":
            for _ in range(8):
                drafting.observe_lookup(num_agreed, is_sampled=False)
        gain = {"needed": 2.0, "lookup": 1.2, "none": 1.0}[way.drafters]
        drafting.observe(EIGHT, 20, 20 / (100 * gain))
    assert (tried > 0) == is_tried


def test_what_looking_up_brings_is_known_of_greedy_and_sampled_requests_apart() -> None:
    drafting = Drafting(LOOKED_UP, lambda num_tokens: 100.0 * num_tokens)
    rates: dict[Drafters, float] = {"needed": 200.0, "lookup": 250.0, "none": 100.0}
    for _ in range(100):
        drafting.observe_lookup(0, is_sampled=False)
        drafting.observe_lookup(5, is_sampled=True)
    ways = {load: set[Drafters]() for load in (Load(8, 0), Load(8, 8))}
    for load, seen in ways.items():
        for _ in range(1000):
            way = drafting.way(load)
            seen.add(way.drafters)
            drafting.observe(load, 20, 20 / rates[way.drafters] / 8)
    assert "lookup" not in ways[Load(8, 0)]
    assert "lookup" in ways[Load(8, 8)]


@pytest.mark.parametrize("has_cores", [False, True])
def test_drafting_beside_a_pass_is_tried_where_drafters_have_cores(has_cores: bool) -> None:
    ways = (Way("needed"), Way("all", ahead=True), Way("needed", 2), Way("none"))
    drafting = Drafting(ways, lambda _: 100.0, has_cores=lambda: has_cores)
    seen = set()
    for _ in range(3000):
        way = drafting.way(EIGHT)
        seen.add(way)
        drafting.observe(EIGHT, 20, 20 / (100 if way.is_plain else 200))
    assert ({ways[1], ways[2]} <= seen) == has_cores
    assert seen.isdisjoint({ways[1], ways[2]}) != has_cores


def test_cores_may_come_and_go() -> None:
    """As drafters on other machines do."""
    ways = (Way("needed"), Way("all", ahead=True), Way("none"))
    have = False
    drafting = Drafting(ways, lambda _: 100.0, has_cores=lambda: have)

    def seen() -> set[Way]:
        found = set()
        for _ in range(1000):
            way = drafting.way(EIGHT)
            found.add(way)
            drafting.observe(EIGHT, 20, 20 / {"none": 100, "needed": 200, "all": 300}[way.drafters])
        return found

    assert ways[1] not in seen()
    have = True
    assert ways[1] in seen()
