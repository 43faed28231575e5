"""The voter on a bus: one draft for each round, in time, whatever the drafters do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from services.voter.config import VoterConfig
from services.voter.service import VoterService
from shared.bus import Bus, connect
from shared.config import BusConfig
from shared.messages import Draft, DraftRequest, Outcome, Proposal, Release, Vote
from shared.wire import replace
from tests.system import running
from tests.voter.test_rounds import proposal, request

VERIFIER = "verifier.test"


@pytest.fixture
async def bus() -> AsyncIterator[Bus]:
    bus = connect(BusConfig())
    yield bus
    await bus.close()


class Peer:
    """A verifier and its drafters, as the voter sees them."""

    def __init__(self, bus: Bus, voter: VoterService, drafts: AsyncIterator[object]) -> None:
        self.bus = bus
        self.voter = voter
        self._drafts = drafts
        self._num_probes = 0

    async def send(self, *messages: DraftRequest | Proposal | Release) -> None:
        for message in messages:
            if isinstance(message, DraftRequest):
                message = replace(message, reply_to=VERIFIER)
            await self.bus.send([self.voter.instance_id], message)

    async def draft(self) -> Draft:
        async with asyncio.timeout(10):
            draft = await anext(self._drafts)
        assert isinstance(draft, Draft)
        return draft

    async def nothing(self) -> None:
        """What was sent so far had no further answer: the next is that to another request."""
        self._num_probes += 1
        name = f"probe{self._num_probes}"
        await self.send(request(request_id=name, drafters=[], length=0))
        assert (await self.draft()).request_id == name


@asynccontextmanager
async def voting(bus: Bus, **settings: object) -> AsyncIterator[Peer]:
    config = VoterConfig.model_validate(settings)
    voter = VoterService(config, bus, BusConfig())
    async with running(voter), bus.receive(VERIFIER) as drafts:
        yield Peer(bus, voter, drafts)


async def test_the_proposals_of_a_round_become_one_draft(bus: Bus) -> None:
    async with voting(bus) as peer:
        await peer.send(request(), proposal("b", [4, 6]), proposal("a", [4, 5, 7]))
        draft = await peer.draft()
        assert (draft.request_id, draft.round, draft.tokens) == ("r", 0, [4, 5, 7])
        assert draft.votes == [Vote("a", [4, 5, 7], 0, 1.0, True), Vote("b", [4, 6], 0, 1.0, True)]
        await peer.nothing()


async def test_the_deadline_closes_a_round_without_the_missing_drafter(bus: Bus) -> None:
    async with voting(bus) as peer:
        await peer.send(replace(request(), timeout_s=0.05), proposal("b", [8]))
        draft = await peer.draft()
        assert draft.tokens == [8]
        assert [vote.drafter for vote in draft.votes] == ["b"]
        await peer.send(proposal("a", [9]))
        await peer.nothing()
        await peer.send(request(1, start=3, tokens=[8]), proposal("a", [1], 1))
        await peer.send(proposal("b", [1], 1))
        assert [vote.tokens for vote in (await peer.draft()).votes] == [[1], [1]]


async def test_no_proposal_at_all_gives_an_empty_draft(bus: Bus) -> None:
    async with voting(bus) as peer:
        await peer.send(replace(request(), timeout_s=0.02))
        draft = await peer.draft()
        assert (draft.tokens, draft.votes) == ([], [])


async def test_a_quorum_does_not_wait_for_the_rest(bus: Bus) -> None:
    async with voting(bus, quorum=1) as peer:
        await peer.send(request(), proposal("b", [8]), proposal("a", [9]))
        assert (await peer.draft()).tokens == [8]
        await peer.nothing()


async def test_where_no_draft_is_asked_for_the_answer_comes_at_once(bus: Bus) -> None:
    async with voting(bus, length="climb") as peer:
        await peer.send(request(drafters=[], length=0))
        draft = await peer.draft()
        assert draft.tokens == []
        assert draft.speculation_length == VoterConfig().initial_length
        await peer.send(request(request_id="s", drafters=[]))
        assert (await peer.draft()).request_id == "s"


async def test_repeated_and_reordered_messages_give_one_draft_a_round(bus: Bus) -> None:
    async with voting(bus) as peer:
        await peer.send(proposal("b", [5]), proposal("b", [5]), proposal("a", [5], 1))
        await peer.send(request(), request(), proposal("a", [5]), proposal("a", [6]))
        assert (await peer.draft()).tokens == [5]
        await peer.send(request(), proposal("a", [6]))
        await peer.send(request(1, start=3, tokens=[5]), proposal("b", [5], 1), request(0))
        draft = await peer.draft()
        assert (draft.round, draft.tokens) == (1, [5])
        await peer.nothing()


async def test_a_broken_drafter_holds_up_nobody_and_wins_nothing(bus: Bus) -> None:
    async with voting(bus) as peer:
        await peer.send(request(), proposal("a", [-7]), proposal("b", [4]))
        draft = await peer.draft()
        assert draft.tokens == [4]
        assert draft.votes[0] == Vote("a", [], 0, 1.0, True)
        await peer.send(request(request_id="s"), proposal("a", range(99), request_id="s"))
        await peer.send(proposal("nobody", [4], request_id="s"))
        await peer.send(proposal("b", [6], request_id="s"))
        assert (await peer.draft()).tokens == [6]


async def test_a_drafter_without_the_context_is_passed_on_as_such(bus: Bus) -> None:
    async with voting(bus) as peer:
        await peer.send(request(), proposal("a", [], is_synced=False), proposal("b", [4]))
        draft = await peer.draft()
        assert draft.tokens == [4]
        assert draft.votes[0] == Vote("a", [], 0, 1.0, False)


async def test_a_new_round_supersedes_one_that_is_still_open(bus: Bus) -> None:
    async with voting(bus) as peer:
        await peer.send(replace(request(), timeout_s=0.05), proposal("a", [4]))
        await peer.send(request(1, start=3, tokens=[4]), proposal("b", [4]))
        await peer.send(proposal("a", [5], 1), proposal("b", [5], 1))
        draft = await peer.draft()
        assert (draft.round, draft.tokens) == (1, [5])
        await peer.nothing()


async def test_a_release_frees_the_request_and_its_timer(bus: Bus) -> None:
    async with voting(bus) as peer:
        await peer.send(replace(request(), timeout_s=0.01), Release("r", 3, [], None))
        await peer.nothing()
        await peer.send(request(), proposal("a", [4]), proposal("b", [4]))
        assert (await peer.draft()).round == 0


async def play(
    peer: Peer,
    rounds: int,
    *,
    request_id: str = "r",
    tokens: Sequence[int] = (1, 2),
    duration_s: Sequence[float] = (1.0,) * 65,
) -> list[Draft]:
    """Rounds of one request whose target always emits 1, where b is right and a is wrong."""
    drafts: list[Draft] = []
    position, outcome, length, emitted = 0, None, 4, list(tokens)
    for number in range(rounds):
        asked = request(number, request_id, ("a", "b") if length else (), position, emitted, length)
        await peer.send(replace(asked, outcome=outcome))
        if length:
            await peer.send(proposal("a", [0] * length, number, request_id))
            await peer.send(proposal("b", [1] * length, number, request_id))
        draft = await peer.draft()
        drafts.append(draft)
        position += len(emitted)
        accepted = len(draft.tokens) if 0 not in draft.tokens else 0
        emitted = [1] * (accepted + 1)
        outcome = Outcome(number, 1, len(draft.tokens), accepted, 0.0, duration_s[length], 1)
        length = draft.speculation_length
    return drafts


async def test_the_drafter_that_is_right_is_heard(bus: Bus) -> None:
    async with voting(bus, fixed_length=4) as peer:
        drafts = await play(peer, 12)
        # Equal weights: the lowest token. From then on, what the target said.
        assert drafts[0].tokens == [0, 0, 0, 0]
        assert all(draft.tokens == [1, 1, 1, 1] for draft in drafts[1:])
        weights = [vote.weight for vote in drafts[-1].votes]
        assert weights[0] < 0.6 < weights[1] == 1.0


async def test_the_papers_rule_judges_the_winners_only(bus: Bus) -> None:
    async with voting(bus, weigh="winners", fixed_length=4) as peer:
        drafts = await play(peer, 12)
        # The loser of the first round keeps the weight it had then.
        weights = {draft.votes[0].weight for draft in drafts[1:]}
        assert len(weights) == 1
        assert weights != {1.0}
        assert drafts[-1].tokens == [1, 1, 1, 1]


async def test_weights_are_kept_for_each_target_model(bus: Bus) -> None:
    async with voting(bus, fixed_length=4) as peer:
        await play(peer, 12)
        other = replace(request(request_id="s"), target="other")
        await peer.send(other, proposal("a", [4], request_id="s"))
        await peer.send(proposal("b", [4], request_id="s"))
        assert [vote.weight for vote in (await peer.draft()).votes] == [1.0, 1.0]


async def test_voters_share_what_they_learned(bus: Bus) -> None:
    async with voting(bus, fixed_length=4, flush_s=0.005) as peer:
        await play(peer, 12)
        learned = 0.9
        async with asyncio.timeout(10):
            while (await bus.scale("weights.target", {}, 0.0, 1.0)).get("a", 1.0) > learned:
                await peer.nothing()
        replica = VoterService(VoterConfig(flush_s=0.005), bus, BusConfig())
        async with running(replica):
            newcomer = Peer(bus, replica, peer._drafts)
            weight, number = 1.0, 0
            async with asyncio.timeout(10):
                while weight > learned:
                    name = f"s{number}"
                    await newcomer.send(request(request_id=name))
                    await newcomer.send(
                        proposal("a", [], request_id=name), proposal("b", [], request_id=name)
                    )
                    weight, number = (await newcomer.draft()).votes[0].weight, number + 1


async def test_the_length_falls_to_zero_where_drafts_cost_more_and_is_probed_again(
    bus: Bus,
) -> None:
    async with voting(bus, length="climb", decision_threshold=1, window=2) as peer:
        cost = [1.0 + 10.0 * length for length in range(65)]
        lengths = [d.speculation_length for d in await play(peer, 60, duration_s=cost)]
        assert lengths.count(0) > 25
        assert max(lengths[30:]) > 0
        cheap = await play(peer, 60, request_id="s")
        assert max(draft.speculation_length for draft in cheap) > 6


async def test_the_last_round_is_settled_by_the_release(bus: Bus) -> None:
    async with voting(bus, fixed_length=4) as peer:
        await peer.send(request(), proposal("a", [0]), proposal("b", [1]))
        await peer.draft()
        await peer.send(Release("r", 3, [1, 1], Outcome(0, 1, 1, 0, 1.0, 1.0, 1)))
        await peer.send(request(request_id="s"), proposal("a", [0], request_id="s"))
        await peer.send(proposal("b", [1], request_id="s"))
        a, b = (await peer.draft()).votes
        assert a.weight < b.weight == 1.0


@pytest.mark.parametrize("length", [0, 7])
async def test_a_fixed_length_is_not_adapted(bus: Bus, length: int) -> None:
    async with voting(bus, fixed_length=length) as peer:
        await peer.send(request(drafters=[], length=0))
        assert (await peer.draft()).speculation_length == length


async def test_the_walk_is_a_setting(bus: Bus) -> None:
    async with voting(bus, walk="heaviest-path") as peer:
        drafters = ["a", "b", "c", "d", "e"]
        await peer.send(request(drafters=drafters))
        for name in "abc":
            await peer.send(proposal(name, [1]))
        for name in "de":
            await peer.send(proposal(name, [2, 2, 2]))
        assert (await peer.draft()).tokens == [2, 2, 2]


async def test_what_does_not_belong_in_the_inbox_is_passed_over(bus: Bus) -> None:
    async with voting(bus) as peer:
        await bus.send([peer.voter.instance_id], Draft("r", 0, [], [], 4, 0.0, 0.0, []))
        await peer.nothing()


async def test_plain_rounds_are_told_together(bus: Bus) -> None:
    """Eight of them in one message count as eight: a look at drafting comes as soon."""
    async with voting(bus, length="climb", decision_threshold=16, initial_length=0) as peer:
        lengths = []
        for number in range(0, 80, 8):
            asked = request(number, "r", (), number, [1] * 8, 0)
            outcome = Outcome(number - 8, 8, 0, 0, 8.0, 8.0, 1) if number else None
            await peer.send(replace(asked, outcome=outcome))
            lengths.append((await peer.draft()).speculation_length)
        assert lengths[:2] == [0, 0]
        assert max(lengths[2:4]) > 0
