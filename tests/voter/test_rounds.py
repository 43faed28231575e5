"""Rounds: whatever order messages come in, each proposal counts once, for its own round."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from services.voter.rounds import MAX_EARLY, RefusedError, Rounds
from shared.generation import Sampling
from shared.messages import DraftRequest, Proposal, Release


def request(
    round: int = 0,
    request_id: str = "r",
    drafters: Sequence[str] = ("a", "b"),
    start: int = 0,
    tokens: Sequence[int] = (1, 2, 3),
    length: int = 4,
) -> DraftRequest:
    return DraftRequest(
        request_id=request_id,
        round=round,
        target="target",
        start=start,
        tokens=list(tokens),
        num_prompt_tokens=3,
        speculation_length=length,
        price=0.2,
        ahead=False,
        sampling=Sampling(),
        timeout_s=10.0,
        drafters=list(drafters),
        voter="voter",
        reply_to="verifier",
        outcome=None,
    )


def proposal(
    drafter: str = "a",
    tokens: Sequence[int] = (4, 5),
    round: int = 0,
    request_id: str = "r",
    is_synced: bool = True,
) -> Proposal:
    margins = [1.0] * len(tokens)
    return Proposal(request_id, round, drafter, list(tokens), margins, 0, 0.001, is_synced)


def reason(rounds: Rounds, late: Proposal) -> str:
    with pytest.raises(RefusedError) as refused:
        rounds.add(late)
    return str(refused.value)


def test_a_round_is_complete_with_all_that_were_asked() -> None:
    rounds = Rounds(max_requests=8, quorum=0)
    opened = rounds.open(request())
    assert opened is not None
    assert not rounds.is_complete(rounds.add(proposal("a")))
    assert rounds.is_complete(rounds.add(proposal("b")))


def test_a_quorum_is_enough_and_never_more_than_were_asked() -> None:
    assert Rounds(8, quorum=1).is_complete(opened_with(Rounds(8, quorum=1), "a"))
    rounds = Rounds(8, quorum=5)
    assert not rounds.is_complete(opened_with(rounds, "a"))
    assert rounds.is_complete(rounds.add(proposal("b")))


def opened_with(rounds: Rounds, drafter: str):  # type: ignore[no-untyped-def]
    rounds.open(request())
    return rounds.add(proposal(drafter))


def test_a_proposal_that_comes_before_its_request_counts() -> None:
    rounds = Rounds(8, 0)
    assert reason(rounds, proposal("a", [7])) == "early"
    assert reason(rounds, proposal("stranger", [7])) == "early"
    opened = rounds.open(request())
    assert opened is not None
    assert {name: p.tokens for name, p in opened.proposals.items()} == {"a": [7]}


def test_early_proposals_are_kept_in_bounds() -> None:
    rounds = Rounds(8, 0)
    for i in range(MAX_EARLY + 1):
        reason(rounds, proposal("a", request_id=f"r{i}"))
    first, last = rounds.open(request(request_id="r0")), rounds.open(request(request_id="r1"))
    assert first is not None
    assert last is not None
    assert not first.proposals
    assert last.proposals


def test_late_repeated_and_unasked_proposals_are_refused() -> None:
    rounds = Rounds(8, 0)
    rounds.open(request(0))
    rounds.add(proposal("a"))
    assert reason(rounds, proposal("a", [9])) == "repeated"
    assert reason(rounds, proposal("stranger")) == "unknown drafter"
    opened = rounds.open(request(1))
    assert opened is not None
    assert reason(rounds, proposal("b", round=0)) == "late"
    opened.draft = []
    assert reason(rounds, proposal("b", round=1)) == "late"
    assert not opened.proposals


def test_who_was_waited_for_in_vain_is_not_waited_for_again_until_heard() -> None:
    rounds = Rounds(8, 0)
    first = opened_with(rounds, "a")
    first.give_up()
    first.draft = []
    rounds.open(request(1))
    assert rounds.is_complete(rounds.add(proposal("a", round=1)))
    # Late for its round, but alive: the next one waits for it again.
    assert reason(rounds, proposal("b", round=0)) == "late"
    rounds.open(request(2))
    assert not rounds.is_complete(rounds.add(proposal("a", round=2)))
    assert rounds.is_complete(rounds.add(proposal("b", round=2)))


def test_an_early_proposal_of_a_silent_drafter_is_heard() -> None:
    rounds = Rounds(8, 0)
    opened_with(rounds, "a").give_up()
    assert reason(rounds, proposal("b", round=1)) == "early"
    rounds.open(request(1))
    assert rounds.is_complete(rounds.add(proposal("a", round=1)))
    rounds.open(request(2))
    assert not rounds.is_complete(rounds.add(proposal("a", round=2)))


def test_when_all_are_silent_a_round_is_over_at_once() -> None:
    rounds = Rounds(8, 0)
    opened = rounds.open(request(0))
    assert opened is not None
    opened.give_up()
    again = rounds.open(request(1))
    assert again is not None
    assert rounds.is_complete(again)


def test_repeated_and_older_requests_open_nothing() -> None:
    rounds = Rounds(8, 0)
    rounds.open(request(3))
    assert rounds.open(request(3)) is None
    assert rounds.open(request(2)) is None
    assert rounds.open(request(5)) is not None


@pytest.mark.parametrize(
    "broken",
    [
        proposal(tokens=[4, -1]),
        proposal(tokens=[1 << 40]),
        proposal(tokens=[1, 2, 3, 4, 5]),
        proposal(tokens=[4], is_synced=False),
    ],
)
def test_impossible_tokens_are_dropped_and_still_an_answer(broken: Proposal) -> None:
    rounds = Rounds(8, 0)
    rounds.open(request(drafters=["a"]))
    opened = rounds.add(broken)
    assert opened.proposals["a"].tokens == []
    assert rounds.is_complete(opened)


def test_what_the_target_emitted_is_read_from_a_later_context() -> None:
    opened = Rounds(8, 0).open(request(tokens=[1, 2, 3]))
    assert opened is not None
    assert opened.emitted(3, [8, 9]) == [8, 9]
    assert opened.emitted(0, [1, 2, 3, 8, 9]) == [8, 9]
    assert opened.emitted(5, [8]) is None


def test_the_least_recent_and_the_released_are_forgotten() -> None:
    rounds = Rounds(max_requests=2, quorum=0)
    for name in ("a", "b", "c"):
        rounds.open(request(request_id=name))
    assert rounds.last("a") is None
    assert rounds.last("b") is not None
    assert rounds.release(Release("b", 3, [], None)) is not None
    assert rounds.release(Release("b", 3, [], None)) is None
