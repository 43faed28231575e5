"""A drafter on the bus: newest rounds only, full contexts where they lack, and no fatal message."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from services.drafter import metrics
from services.drafter.config import DrafterConfig
from services.drafter.model import Proposed, Steps, Want
from services.drafter.service import DrafterService, build
from shared.bus import Bus
from shared.config import BusConfig
from shared.errors import ConfigError
from shared.generation import Sampling
from shared.messages import Cancel, DraftRequest, Proposal, Release
from shared.service import Service
from tests.system import running
from tests.toy import VOCAB_SIZE, write_toy

VOTER = "voter.test"


@pytest.fixture
async def drafters(
    tmp_path: Path, bus: Bus, bus_config: BusConfig
) -> AsyncIterator[dict[str, Service]]:
    """A neural and a lookup drafter by name."""
    folder = write_toy(tmp_path / "small")
    services = build(DrafterConfig(models=f"{folder}, ngram"), bus, bus_config)
    async with running(*services):
        yield {service.name: service for service in services}


class Voter:
    """Asks drafters and reads their proposals."""

    def __init__(self, bus: Bus, proposals: AsyncIterator[object]) -> None:
        self._bus = bus
        self._proposals = proposals

    async def ask(self, drafter: Service, *messages: object) -> None:
        for message in messages:
            await self._bus.send([drafter.instance_id], message)

    async def proposal(self) -> Proposal:
        message = await asyncio.wait_for(anext(self._proposals), 10)
        assert isinstance(message, Proposal)
        return message


@pytest.fixture
async def voter(bus: Bus) -> AsyncIterator[Voter]:
    async with bus.receive(VOTER) as messages:
        yield Voter(bus, messages)


def request(
    tokens: list[int],
    start: int = 0,
    number: int = 0,
    length: int = 4,
    request_id: str = "r",
    ahead: bool = False,
) -> DraftRequest:
    return DraftRequest(
        request_id, number, "toy", start, tokens, 4, length, 0.2, ahead,
        Sampling(temperature=0.0), 1.0,
        ["small", "ngram"], VOTER, "verifier.test", None,
    )  # fmt: skip


async def test_it_proposes_as_many_tokens_as_it_is_asked_for(
    drafters: dict[str, Service], voter: Voter
) -> None:
    await voter.ask(drafters["small"], request([5, 6, 7, 8], length=6))
    proposal = await voter.proposal()
    assert (proposal.request_id, proposal.round, proposal.drafter) == ("r", 0, "small")
    assert proposal.is_synced
    assert len(proposal.tokens) == 6
    assert all(0 <= token < VOCAB_SIZE for token in proposal.tokens)


async def test_a_lookup_drafter_copies_what_followed_before(
    drafters: dict[str, Service], voter: Voter
) -> None:
    await voter.ask(drafters["ngram"], request([5, 6, 7, 8, 9, 5, 6], length=3))
    assert (await voter.proposal()).tokens == [7, 8, 9]


@pytest.mark.parametrize("name", ["small", "ngram"])
async def test_without_the_context_it_says_so_and_goes_on_when_it_has_it(
    drafters: dict[str, Service], voter: Voter, name: str
) -> None:
    await voter.ask(drafters[name], request([7], start=3))
    lost = await voter.proposal()
    assert (lost.is_synced, lost.tokens) == (False, [])
    await voter.ask(drafters[name], request([5, 6, 5, 6], number=1))
    assert (await voter.proposal()).is_synced
    await voter.ask(drafters[name], Release("r", 4, [5], None), request([9], start=5, number=2))
    assert not (await voter.proposal()).is_synced


async def test_what_cannot_be_drafted_costs_its_proposals_and_no_more(
    drafters: dict[str, Service], voter: Voter
) -> None:
    small = drafters["small"]
    await voter.ask(small, request([10**6], request_id="broken"), Cancel("no such thing"))
    proposal = asyncio.create_task(voter.proposal())
    # The broken request may share a sound one's batch; a later one is served in any case.
    for number in range(100):
        await voter.ask(small, request([5, 6, 7], number=number, request_id="sound"))
        if (await asyncio.wait([proposal], timeout=0.05))[0]:
            break
    assert (await proposal).request_id == "sound"


def test_an_unknown_draft_model_is_named(bus: Bus, bus_config: BusConfig) -> None:
    with pytest.raises(ConfigError, match="'nothing', which is neither a folder nor one of"):
        build(DrafterConfig(models="ngram,nothing"), bus, bus_config)


async def test_it_drafts_ahead_while_nobody_asks(
    drafters: dict[str, Service], voter: Voter
) -> None:
    """The next proposal is there if all of the last one and its own next token come back."""
    small, drafted = drafters["small"], metrics.AHEAD_TOKENS.labels("small")
    before = drafted._value.get()
    await voter.ask(small, request([5, 6, 7, 8], length=9))
    text = (await voter.proposal()).tokens
    await voter.ask(small, request([5, 6, 7, 8], length=4, request_id="q", ahead=True))
    assert (await voter.proposal()).tokens == text[:4]
    # Nothing is sent when it is done, and what it is asked next would interrupt it.
    while drafted._value.get() < before + 5:  # noqa: ASYNC110 - no event tells of it
        await asyncio.sleep(0)
    await voter.ask(small, request(text[:5], start=4, number=1, length=4, request_id="q"))
    proposal = await voter.proposal()
    assert (proposal.tokens, proposal.num_ready) == (text[5:9], 4)


class Paced:
    """A draft model that says on which thread its passes run, and how often the event loop came to
    something else between them. Each takes a core for so long."""

    kind = "neural"

    def __init__(self) -> None:
        self.pass_s = 0.0
        self.threads: list[int] = []
        self.num_turns = 0
        self.turns_before: list[int] = []
        self._loop = asyncio.get_running_loop()

    def turn(self) -> None:
        self.num_turns += 1

    def extend(self, request_id: str, start: int, tokens: Sequence[int], prompt: int) -> bool:
        return True

    def propose(self, wants: Sequence[Want]) -> Steps[list[Proposed]]:
        for _ in range(wants[0].speculation_length):
            self.threads.append(threading.get_ident())
            self.turns_before.append(self.num_turns)
            self._loop.call_soon_threadsafe(self.turn)
            until = time.thread_time() + self.pass_s
            while time.thread_time() < until:
                pass
            yield
        return [Proposed([7] * want.speculation_length, []) for want in wants]

    def draft_ahead(self, is_asked: Callable[[], bool]) -> int:
        return 0

    def release(self, request_id: str) -> None:
        pass


async def test_quick_passes_take_turns_with_the_event_loop_and_slow_ones_have_a_thread(
    bus: Bus, bus_config: BusConfig, voter: Voter
) -> None:
    model = Paced()
    drafter = DrafterService("paced", lambda: model, bus, bus_config)
    own, number = threading.get_ident(), 0

    async def is_here(*, num_tokens: int = 2) -> bool:
        nonlocal number
        model.threads.clear()
        model.turns_before.clear()
        number += 1
        await voter.ask(drafter, request([5] * num_tokens, number=number, length=5))
        assert (await voter.proposal()).tokens == [7] * 5
        assert len(model.threads) == 5
        assert len(set(model.threads)) == 1
        return model.threads[0] == own

    async with running(drafter):
        assert not await is_here()  # how quick it is nobody knows yet
        model.num_turns = 0
        assert await is_here()
        assert model.turns_before == [0, 1, 2, 3, 4]
        assert not await is_here(num_tokens=17)  # much to read first
        assert await is_here()
        model.pass_s = 0.01
        assert await is_here()  # nobody knows yet
        assert not await is_here()
        model.pass_s = 0.0
        for _ in range(20):
            if await is_here():
                break
        else:
            pytest.fail("it never came back to the event loop")
