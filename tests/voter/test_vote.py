"""The vote: whoever arrives first, the same real path wins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.voter.vote import Ballot, Walk, merge
from shared.tokens import common_length

WALKS: list[Walk] = ["greedy", "heaviest-path"]
tokens = st.lists(st.integers(0, 3), max_size=6)
weights = st.floats(0.01, 10)
elections = st.lists(st.builds(Ballot, tokens, weights), max_size=6)
walks = st.sampled_from(WALKS)


def shares_prefix(draft: Sequence[int], ballot: Ballot) -> bool:
    return list(ballot.tokens[: len(draft)]) == list(draft)


@given(elections, walks, st.integers(0, 8), st.randoms())
def test_the_order_of_proposals_is_irrelevant(ballots, walk, length, random) -> None:
    shuffled = list(ballots)
    random.shuffle(shuffled)
    assert merge(ballots, walk, length) == merge(shuffled, walk, length)


@given(tokens, weights, walks, st.integers(0, 8))
def test_one_drafter_alone_gets_its_proposal(proposal, weight, walk, length) -> None:
    assert merge([Ballot(proposal, weight)], walk, length) == proposal[:length]


@given(elections, walks, st.integers(0, 8))
def test_the_draft_is_a_path_that_a_drafter_proposed_to_its_end(ballots, walk, length) -> None:
    draft = merge(ballots, walk, length)
    assert len(draft) <= length
    proposers = [ballot for ballot in ballots if shares_prefix(draft, ballot)]
    assert proposers or not draft
    # It ends where all who proposed it end, or at the limit.
    assert all(len(b.tokens) == len(draft) or len(draft) == length for b in proposers)


@given(elections, st.integers(0, 8))
def test_greedy_takes_a_heaviest_child_at_each_level(ballots, length) -> None:
    draft = merge(ballots, "greedy", length)

    def node_weight(path: list[int]) -> float:
        return sum(b.weight for b in ballots if list(b.tokens[: len(path)]) == path)

    for depth in range(len(draft)):
        siblings = [node_weight([*draft[:depth], token]) for token in range(4)]
        assert node_weight(draft[: depth + 1]) == pytest.approx(max(siblings))


@given(elections, st.integers(0, 8))
def test_heaviest_path_has_the_largest_sum_of_node_weights(ballots, length) -> None:
    def path_weight(path: Sequence[int]) -> float:
        nodes = [list(path[:depth]) for depth in range(1, len(path) + 1)]
        return sum(b.weight for node in nodes for b in ballots if shares_prefix(node, b))

    best = max((path_weight(b.tokens[:length]) for b in ballots), default=0.0)
    assert path_weight(merge(ballots, "heaviest-path", length)) == pytest.approx(best)


def test_the_two_walks_can_differ() -> None:
    # At the first level 1 is heavier; the two that say 2 agree for longer.
    ballots = [Ballot([1], 1.5), Ballot([1], 1.0), Ballot([2, 5, 6], 1.2), Ballot([2, 5, 6], 1.2)]
    assert merge(ballots, "greedy", 8) == [1]
    assert merge(ballots, "heaviest-path", 8) == [2, 5, 6]


def test_two_that_agree_outvote_a_heavier_one() -> None:
    assert merge([Ballot([1, 1], 0.8), Ballot([2, 2], 0.5), Ballot([2, 3], 0.4)], "greedy", 8) == [
        2, 2,
    ]  # fmt: skip


@pytest.mark.parametrize("walk", WALKS)
def test_a_tie_goes_to_the_heaviest_single_drafter_then_to_the_lowest_token(walk: Walk) -> None:
    for ballots in permutations([Ballot([3], 0.5), Ballot([3], 0.5), Ballot([7], 1.0)]):
        assert merge(ballots, walk, 4) == [7]
    for ballots in permutations([Ballot([9], 1.0), Ballot([4], 1.0)]):
        assert merge(ballots, walk, 4) == [4]


@pytest.mark.parametrize("walk", WALKS)
def test_an_empty_proposal_votes_for_nothing(walk: Walk) -> None:
    assert merge([Ballot([], 9.0), Ballot([5], 0.1)], walk, 4) == [5]
    assert merge([Ballot([], 9.0)], walk, 4) == []
    assert merge([], walk, 4) == []


@given(tokens, tokens)
def test_common_length_is_the_length_of_the_common_prefix(left, right) -> None:
    length = common_length(left, right)
    assert left[:length] == right[:length]
    assert left[: length + 1] != right[: length + 1] or length == min(len(left), len(right))
