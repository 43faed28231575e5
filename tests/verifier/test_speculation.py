"""The verifier's side of speculation: who is asked what, how often, and what is believed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from services.verifier.drafting import Way
from services.verifier.session import Session, Took
from services.verifier.speculation import Speculation
from shared.bus import Bus, Instance, connect
from shared.config import BusConfig
from shared.generation import Sampling, Times
from shared.machine import machine_id
from shared.messages import Draft, DraftRequest, GenerateRequest, Release, Vote
from shared.registry import Registry

ALL = Way("all")
VERIFIER, VOTER, DRAFTER = "verifier.test", "voter.test", "drafter.test"
VOCAB_SIZE, MAX_LENGTH = 50, 6


@dataclass
class Scene:
    """A speculation, and what the one voter and the one drafter were sent."""

    bus: Bus
    registry: Registry
    speculation: Speculation
    session: Session
    to_voter: AsyncIterator[object]
    to_drafter: AsyncIterator[object]

    async def asked(self) -> DraftRequest:
        message = await asyncio.wait_for(anext(self.to_voter), 5)
        assert isinstance(message, DraftRequest)
        return message

    async def round(
        self,
        answer: list[int],
        *,
        votes: list[Vote] | None = None,
        way: Way = ALL,
        emitted: tuple[int, ...] = (7,),
    ) -> tuple[DraftRequest, Draft]:
        """A round in which the voter answers with these tokens: what was asked, and the draft that
        came of it."""
        drafting = asyncio.create_task(self.speculation.draft(self.session, way, 0.2))
        request = await self.asked()
        self.speculation.deliver(
            Draft(
                request.request_id,
                request.round,
                answer,
                [0.9] * len(answer),
                request.speculation_length,
                0.0,
                0.0,
                votes or [],
            )
        )
        draft = await drafting
        self.settle(draft, emitted)
        return request, draft

    def settle(self, draft: Draft, emitted: tuple[int, ...] = (7,)) -> None:
        emitted_now = self.session.emit(emitted)
        self.session.settle(
            draft.tokens,
            draft.votes,
            emitted_now,
            Took(0.0, 0.5, 0.0, 2),
            Times(forward_s=0.5, rest_s=0.5),
        )


SEVEN, MORE = [7, 7, 7], (7, 7, 7, 7)


def looked_up(*proposed: int) -> list[Vote]:
    """The votes of a lookup that proposed these tokens, and of a model that was wrong."""
    return [Vote("ngram", list(proposed), 0, 1.0, True), Vote("small", [5], 0, 1.0, True)]


@pytest.fixture(params=[0.0])
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    """Of a request at this temperature."""
    config = BusConfig()
    bus: Bus = connect(config)
    registry = Registry(bus, 60.0)
    await registry.announce(Instance(VOTER, "voter", "voter", VOTER, {}))
    await registry.announce(Instance(DRAFTER, "drafter", "small", DRAFTER, {}))
    speculation = Speculation(bus, registry, VERIFIER, "toy", "", VOCAB_SIZE, 4, MAX_LENGTH, 0.2)
    sampling = Sampling(temperature=request.param)
    asked = GenerateRequest("r", "x", [1, 2, 3], 100, sampling, [], time.time() + 60)
    async with bus.receive(VOTER) as to_voter, bus.receive(DRAFTER) as to_drafter:
        yield Scene(bus, registry, speculation, Session(asked, 4), to_voter, to_drafter)
    await bus.close()


async def test_the_first_request_has_the_whole_context_and_later_ones_what_is_new(
    scene: Scene,
) -> None:
    _, draft = await scene.round([7, 8])
    assert draft.tokens == [7, 8]
    first = await anext(scene.to_drafter)
    await scene.round([])
    second = await anext(scene.to_drafter)
    assert isinstance(first, DraftRequest)
    assert isinstance(second, DraftRequest)
    assert (first.start, first.tokens, first.outcome) == (0, [1, 2, 3], None)
    assert (second.start, second.tokens) == (3, [7])
    assert second.outcome is not None
    assert (second.outcome.num_rounds, second.outcome.num_draft_tokens) == (1, 2)
    assert (second.outcome.pass_s, second.outcome.round_s) == (0.5, 1.0)


async def test_those_that_compute_are_asked_where_looking_up_does_not_do(scene: Scene) -> None:
    lookup = Instance("drafter.lookup", "drafter", "ngram", "drafter.lookup", {"kind": "lookup"})
    await scene.registry.announce(lookup)
    needed, votes = Way("needed"), looked_up
    first, _ = await scene.round(SEVEN, votes=votes(7, 7, 7, 3), way=needed, emitted=MORE)
    second, _ = await scene.round(SEVEN, votes=votes(7, 7, 7)[:1], way=needed, emitted=MORE)
    third, _ = await scene.round([4, 4], votes=votes(4, 4)[:1], way=needed, emitted=(7,))
    fourth, _ = await scene.round(
        [*SEVEN, 8], votes=votes(7, 7, 7), way=needed, emitted=(*MORE[1:], 8, 1)
    )
    last, _ = await scene.round([7], way=needed)
    assert sorted(first.drafters) == ["ngram", "small"]
    assert second.drafters == third.drafters == ["ngram"]
    assert sorted(fourth.drafters) == ["ngram", "small"], "it was wrong"
    assert sorted(last.drafters) == ["ngram", "small"], "the others knew more"
    asked = [await anext(scene.to_drafter) for _ in range(3)]
    assert [(m.start, m.tokens) for m in asked if isinstance(m, DraftRequest)] == [
        (0, [1, 2, 3]),
        (3, [7] * 9),
        (12, [7, 7, 7, 8, 1]),
    ]


@pytest.mark.parametrize("scene", [0.8], indirect=True)
async def test_a_sampled_text_is_believed_to_repeat_itself_from_five_tokens_on(
    scene: Scene,
) -> None:
    lookup = Instance("drafter.lookup", "drafter", "ngram", "drafter.lookup", {"kind": "lookup"})
    await scene.registry.announce(lookup)
    needed, five = Way("needed"), (7, 7, 7, 7, 7)
    await scene.round(SEVEN, votes=looked_up(7, 7, 7), way=needed, emitted=MORE)
    second, _ = await scene.round(
        list(five), votes=looked_up(*five), way=needed, emitted=(*five, 7)
    )
    third, _ = await scene.round([7], way=needed)
    assert sorted(second.drafters) == ["ngram", "small"], "three are not enough"
    assert third.drafters == ["ngram"]


async def test_a_drafter_that_lost_the_context_is_sent_all_of_it(scene: Scene) -> None:
    await scene.round([7], votes=[Vote("small", [], 0, 1.0, False)])
    await scene.round([])
    requests = [await anext(scene.to_drafter) for _ in range(2)]
    assert [m.start for m in requests if isinstance(m, DraftRequest)] == [0, 0]


@pytest.mark.parametrize("answer", [[8, VOCAB_SIZE, 9], [8, -1], [8]])
async def test_a_draft_ends_at_what_is_no_token(scene: Scene, answer: list[int]) -> None:
    assert (await scene.round(answer))[1].tokens == [8]


async def test_a_draft_is_not_longer_than_was_asked_for(scene: Scene) -> None:
    assert len((await scene.round([8] * 40))[1].tokens) == 4


async def test_a_late_draft_is_not_waited_for_and_still_tells_the_length(scene: Scene) -> None:
    draft = await scene.speculation.draft(scene.session, ALL, 0.2)
    assert draft.tokens == []
    assert scene.session.num_timeouts == 1
    scene.settle(draft)
    scene.speculation.deliver(Draft(scene.session.id, 0, [9], [0.9], 2, 0.0, 0.0, []))
    # So does the next request, too.
    assert scene.session.speculation_length == scene.speculation.first_length == 2
    await scene.asked()
    await scene.round([7])
    assert scene.session.round == 2


async def test_a_silent_voter_is_asked_and_not_waited_for_until_it_speaks(scene: Scene) -> None:
    scene.settle(await scene.speculation.draft(scene.session, ALL, 0.2))
    for number in range(1, 4):
        async with asyncio.timeout(0.15):  # less than the draft timeout
            scene.settle(await scene.speculation.draft(scene.session, ALL, 0.2))
        assert scene.session.num_timeouts == 1
        assert scene.session.round == number + 1
    assert [(await scene.asked()).round for _ in range(4)] == [0, 1, 2, 3]
    scene.speculation.deliver(Draft(scene.session.id, 3, [9], [0.9], 4, 0.0, 0.0, []))
    assert (await scene.round([7]))[1].tokens == [7]


async def test_another_voter_takes_the_place_of_a_silent_one(scene: Scene) -> None:
    other = Instance("voter.other", "voter", "voter", "voter.other", {})
    await scene.registry.announce(other)
    async with scene.bus.receive("voter.other") as to_other:
        sides = {VOTER: scene.to_voter, "voter.other": to_other}
        mails = {inbox: asyncio.ensure_future(anext(side)) for inbox, side in sides.items()}
        scene.settle(await scene.speculation.draft(scene.session, ALL, 0.2))
        silent = next(inbox for inbox, mail in mails.items() if mail.done())
        heard = next(inbox for inbox in mails if inbox != silent)
        drafting = asyncio.create_task(scene.speculation.draft(scene.session, ALL, 0.2))
        request = await asyncio.wait_for(mails[heard], 5)
        assert isinstance(request, DraftRequest)
        assert (request.voter, request.start, request.round) == (heard, 0, 1)
        scene.speculation.deliver(Draft(scene.session.id, 1, [8], [0.9], 4, 0.0, 0.0, []))
        assert (await drafting).tokens == [8]


async def test_plain_rounds_are_told_to_the_voter_together_and_to_no_drafter(
    scene: Scene,
) -> None:
    scene.session.speculation_length = 0
    for _ in range(20):
        scene.settle(await scene.speculation.draft(scene.session, ALL, 0.2))
    requests = [await scene.asked() for _ in range(3)]
    assert [r.round for r in requests] == [0, 8, 16]
    assert [r.outcome and r.outcome.num_rounds for r in requests] == [None, 8, 8]
    assert [r.outcome.round for r in requests if r.outcome] == [0, 8]
    assert all(r.drafters == [] for r in requests)
    await scene.speculation.release(scene.session)
    release = await anext(scene.to_voter)
    assert isinstance(release, Release)
    assert release.outcome is not None
    assert release.outcome.num_rounds == 4


async def test_without_anybody_to_ask_it_decodes_plainly(scene: Scene) -> None:
    lonely = Speculation(
        connect(BusConfig()), Registry(connect(BusConfig()), 60.0), VERIFIER, "toy", "",
        VOCAB_SIZE, 4, MAX_LENGTH, 0.2,
    )  # fmt: skip
    assert (await lonely.draft(scene.session, ALL, 0.2)).tokens == []
    assert scene.session.num_timeouts == 0


async def test_what_looked_up_is_told_apart_from_what_computed(scene: Scene) -> None:
    await scene.round(SEVEN, votes=looked_up(7, 7, 7), emitted=MORE)
    assert scene.speculation.num_looked_up(scene.session) is None
    await scene.registry.announce(
        Instance("drafter.ngram", "drafter", "ngram", "drafter.ngram", {"kind": "lookup"})
    )
    assert scene.speculation.num_looked_up(scene.session) == 3
    await scene.round(SEVEN, votes=looked_up(7, 9), emitted=MORE)
    assert scene.speculation.num_looked_up(scene.session) == 1
    await scene.round(SEVEN, votes=[], emitted=MORE)
    assert scene.speculation.num_looked_up(scene.session) is None


@pytest.mark.parametrize(
    ("attributes", "is_distant"),
    [
        ({}, False),
        ({"machine": machine_id()}, False),
        ({"machine": "another"}, True),
        ({"machine": "another", "kind": "lookup"}, False),
        ({"machine": "another", "targets": "other"}, False),
    ],
)
async def test_a_draft_model_on_another_machine_is_distant(
    scene: Scene, attributes: dict[str, str], is_distant: bool
) -> None:
    assert not scene.speculation.has_distant_drafters()
    await scene.registry.announce(
        Instance("drafter.2", "drafter", "other", "drafter.2", attributes)
    )
    assert scene.speculation.has_distant_drafters() == is_distant
    await scene.registry.withdraw("drafter.2")
    assert not scene.speculation.has_distant_drafters()
