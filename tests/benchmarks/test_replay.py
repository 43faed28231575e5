"""The replay against what can be counted by hand, and the regret of the default policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.compared import Asking, Clairvoyant
from benchmarks.recorded import REACH, STEPS_PER_UNIT, Track, load, save
from benchmarks.regret import Workload, stationary, switching
from benchmarks.replay import LARGE, SMALL, Costs, Replay, Request, Segment, whole
from benchmarks.rules import Climbing, Fixed, Learned, Lengths, Rule, Single, Useful, Weighted
from benchmarks.trees import TreeReplay
from services.voter.estimator import Opinion

COSTS = Costs({2: 0.010, 10: 0.018}, step_s=0.0005, row_s=0.0001, round_s=0.001)
"""A pass takes 10 ms, and one more for each token beyond two."""


def track(tokens: Sequence[int], **drafters: Sequence[Sequence[int]]) -> Track:
    """Each drafter's proposals by position, of which it is sure by 1."""
    opinions = [
        [Opinion(name, list(p[at]), [1.0] * len(p[at])) for name, p in sorted(drafters.items())]
        for at in range(len(tokens))
    ]
    return Track("code", 0.0, list(tokens), opinions)


def right(tokens: Sequence[int], length: int = REACH) -> list[list[int]]:
    """What somebody who knows the text proposes; behind its end, 0."""
    return [[*tokens[at : at + length], *[0] * length][:length] for at in range(len(tokens))]


def wrong(tokens: Sequence[int]) -> list[list[int]]:
    return [[99] * 3 for _ in tokens]


TEXT = list(range(1, 31))

proposals = st.lists(st.integers(0, 3), max_size=REACH)


@st.composite
def tracks(draw: st.DrawFn) -> Track:
    """Two drafters that are right now and then."""
    tokens = draw(st.lists(st.integers(0, 3), min_size=1, max_size=24))
    opinions = []
    for _ in tokens:
        found = []
        for name in "ab":
            proposed = draw(proposals)
            steps = draw(
                st.lists(st.integers(0, 254), min_size=len(proposed), max_size=len(proposed))
            )
            if proposed:
                found.append(Opinion(name, proposed, [step / STEPS_PER_UNIT for step in steps]))
        opinions.append(found)
    return Track("code", 0.0, tokens, opinions)


rules = st.sampled_from(
    [Learned, lambda: Weighted("greedy"), lambda: Weighted("heaviest-path"), lambda: Single("a")]
)
policies = st.one_of(
    st.integers(0, REACH).map(lambda length: lambda: Fixed(length)),
    st.sampled_from([Climbing, Useful]),
)


@given(st.lists(tracks(), min_size=1, max_size=3))
def test_a_record_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, found: list[Track]
) -> None:
    length = min(len(t.tokens) for t in found)
    same = [Track(t.kind, t.temperature, t.tokens[:length], t.opinions[:length]) for t in found]
    file = tmp_path_factory.mktemp("record") / "record.npz"
    save(file, same)
    assert load(file) == same


@given(st.lists(tracks(), min_size=1, max_size=4), rules, policies, st.integers(1, 3))
def test_whatever_is_drafted_the_target_writes_its_own_tokens(
    found: list[Track], rule: type[Rule], policy: type[Lengths], at_a_time: int
) -> None:
    replay = Replay(rule(), policy(), COSTS)
    result = replay.run([whole(t) for t in found], at_a_time)
    assert result.num_tokens == sum(len(t.tokens) for t in found)
    assert result.num_passes <= result.num_rounds <= result.num_tokens
    assert result.num_verified <= result.num_asked
    assert result.seconds >= 0.0099 * result.num_passes


@given(tracks(), policies)
def test_a_tree_without_branches_is_a_chain(found: Track, policy: type[Lengths]) -> None:
    requests = [whole(found)] * 3
    tree = TreeReplay(policy(), COSTS, width=0, worth=0.0)
    assert tree.run(requests, 2) == Replay(Learned(), policy(), COSTS).run(requests, 2)


@given(tracks(), st.integers(1, 4), st.booleans())
def test_a_tree_writes_the_targets_tokens_too(found: Track, width: int, emits: bool) -> None:
    tree = TreeReplay(Useful(), COSTS, width, 0.0, emits)
    assert tree.run([whole(found)] * 3, 2).num_tokens == 3 * len(found.tokens)


def test_plain_decoding_takes_a_pass_a_token() -> None:
    result = Replay(Learned(), Fixed(0), COSTS).run([whole(track(TEXT))], 1)
    assert (result.num_rounds, result.num_asked) == (30, 0)
    assert result.seconds == pytest.approx(30 * 0.010)


def test_who_is_always_right_saves_as_many_passes_as_were_drafted() -> None:
    request = whole(track(TEXT, a=right(TEXT)))
    result = Replay(Single("a"), Fixed(4), COSTS).run([request], 1)
    # Five a round. No draft is asked for that would go beyond the last token.
    assert (result.num_rounds, result.num_verified) == (6, 24)
    drafting = 4 * (0.0005 + 0.0001) + 0.001
    assert result.seconds == pytest.approx(6 * (0.013 + drafting))


def test_who_is_always_wrong_costs_drafting_and_a_longer_pass() -> None:
    request = whole(track(TEXT, a=wrong(TEXT)))
    result = Replay(Single("a"), Fixed(2), COSTS).run([request], 1)
    assert result.num_rounds == 30
    # For the last token nothing is drafted, for the one before it one token.
    assert (result.num_asked, result.num_verified) == (57, 57)


def test_requests_in_step_share_a_pass_and_wait_for_the_longest_proposal() -> None:
    request = whole(track(TEXT, a=right(TEXT)))
    result = Replay(Single("a"), Fixed(4), COSTS).run([request] * 2, 2)
    assert (result.num_passes, result.num_rounds, result.num_tokens) == (6, 12, 60)
    drafting = 4 * 0.0005 + 8 * 0.0001 + 0.001
    assert result.seconds == pytest.approx(6 * (0.018 + drafting))


def test_a_request_goes_on_as_another_where_its_part_ends() -> None:
    first, second = track(TEXT, a=right(TEXT)), track(TEXT, a=wrong(TEXT))
    request: Request = [Segment(first, 0, 10), Segment(second, 10, 20), Segment(first, 20, 30)]
    result = Replay(Single("a"), Fixed(4), COSTS).run([request], 1)
    assert (result.num_tokens, result.num_rounds) == (30, 2 + 10 + 2)


def test_votes_are_learned_and_the_clairvoyant_needs_none() -> None:
    liar, honest = wrong(TEXT), right(TEXT)
    requests = [whole(track(TEXT, a=liar, b=honest))] * 20
    best = Clairvoyant(Learned(), Fixed(4), COSTS).run(requests, 1)
    for rule in (Learned(), Weighted("greedy"), Weighted("heaviest-path")):
        result = Replay(rule, Fixed(4), COSTS).run(requests, 1)
        assert best.tokens_per_round == 5.0 >= result.tokens_per_round > 4.5


def test_drafts_are_short_where_the_target_is_hard_to_guess_and_long_where_it_is_not() -> None:
    asked = []
    for proposed in (right(TEXT), wrong(TEXT)):
        requests = [whole(track(TEXT, a=proposed))] * 20
        result = Replay(Learned(), Useful(), COSTS).run(requests, 1)
        asked.append(result.num_asked / result.num_rounds)
    assert asked[0] > 4
    assert asked[1] < 2


def split(turns_off: int) -> Track:
    """Both propose three tokens; at every position `a` is right but for one in so many, where only
    `b` is."""
    good = right(TEXT, 3)
    bad = [[50, 51, 52] for _ in TEXT]
    turned = [at % turns_off == 0 for at in range(len(TEXT))]
    pairs = [(b, g) if t else (g, b) for g, b, t in zip(good, bad, turned, strict=True)]
    return track(TEXT, a=[a for a, _ in pairs], b=[b for _, b in pairs])


def test_side_tokens_are_known_in_the_next_round_and_not_emitted_in_their_own() -> None:
    requests = [whole(split(5))] * 10
    by_rule = TreeReplay(Fixed(3), COSTS, width=2, worth=0.0)
    emitting = TreeReplay(Fixed(3), COSTS, width=2, worth=0.0, emits=True)
    chain = Replay(Learned(), Fixed(3), COSTS).run(requests, 1)
    held, freed = by_rule.run(requests, 1), emitting.run(requests, 1)
    assert by_rule.branches.num_right > 0
    assert by_rule.branches.num_known > by_rule.branches.num_right
    assert freed.num_rounds <= held.num_rounds <= chain.num_rounds
    assert held.num_verified > chain.num_verified


RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "record.npz"


@pytest.mark.parametrize(
    ("workload", "at_a_time", "costs", "bound"),
    [
        ("code, 0", 1, LARGE, 0.03),
        ("prose, 0.8", 8, LARGE, 0.03),
        ("prose, 0", 8, SMALL, 0.03),
        ("within requests, 0", 1, LARGE, 0.08),
        ("between requests, all", 8, SMALL, 0.08),
    ],
)
def test_the_default_policy_is_nearly_as_fast_as_the_best_fixed_length(
    workload: str, at_a_time: int, costs: Costs, bound: float
) -> None:
    """A part of what benchmarks.regret compares, from nothing."""
    record = load(RECORD)
    (found,) = [w for w in [*stationary(record), *switching(record)] if w.name == workload]
    lengths = range(2, REACH + 1, 1 + at_a_time // 8)
    fixed = [spent(found, Fixed(length), costs, at_a_time) for length in lengths]
    assert spent(found, Useful(), costs, at_a_time) < (1 + bound) * min(fixed)


def spent(workload: Workload, lengths: Lengths, costs: Costs, at_a_time: int) -> float:
    """Seconds a token."""
    replay = Replay(Learned(), lengths, costs)
    return replay.run(workload.requests, at_a_time).seconds_per_token


def test_models_compute_only_where_looking_up_does_not_do() -> None:
    """Lookup knows the first half of a text, a model all of it."""
    tokens = list(range(1, 121))
    half = [p if at < 60 else [] for at, p in enumerate(right(tokens, 4))]
    text = track(tokens, ngram=half, small=right(tokens, 4))
    found = {who: Asking(COSTS, who) for who in ("all", "lookup", "needed")}
    results = {who: replay.run([whole(text)], 1) for who, replay in found.items()}
    # One round finds out that lookup has no more to say.
    assert results["needed"].num_rounds <= results["all"].num_rounds + 1
    assert results["lookup"].num_rounds > results["all"].num_rounds
    assert found["lookup"].num_computed == 0
    assert 0 < found["needed"].num_computed < found["all"].num_computed
    assert results["needed"].seconds < results["all"].seconds


@pytest.mark.parametrize("kind", ["code", "prose", "edits"])
def test_asking_as_needed_is_hardly_ever_worse_than_asking_all(kind: str) -> None:
    record = load(RECORD)
    for temperature, gain in ((0.0, 0.97), (0.8, 1.02)):
        requests = [whole(t) for t in record if (t.kind, t.temperature) == (kind, temperature)]
        needed, everybody = (
            Asking(LARGE, who).run(requests, 1).seconds_per_token for who in ("needed", "all")
        )
        assert needed < gain * everybody
