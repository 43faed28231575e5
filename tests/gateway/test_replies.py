"""What becomes of replies: in order, once, and counted where nobody waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from prometheus_client import REGISTRY

from services.gateway.replies import Arrival, Replies
from shared.bus.memory import MemoryBus
from shared.config import BusConfig
from shared.generation import Logprobs, RoundTrace, Sampling, Times
from shared.messages import Cancel, Failed, Finished, GenerateRequest, GenerationReport, Tokens
from shared.topics import batch_generate_requests

TOPIC = batch_generate_requests("m")
REQUEST = GenerateRequest("r-1", "gateway", [1, 2], 4, Sampling(temperature=0.0), [], 0.0)
END = Finished("r-1", 3, "length", GenerationReport(0, [], 0, Times(), []))


class Desk:
    """Replies on a bus of their own, and what they published."""

    def __init__(self) -> None:
        self.bus = MemoryBus(BusConfig())
        self.replies = Replies(self.bus, silence_s=60)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    yield desk
    await desk.bus.close()


def unclaimed(kind: str) -> float:
    value = REGISTRY.get_sample_value("replies_unclaimed_total", {"type": kind})
    return value or 0.0


def tokens(offset: int, *ids: int) -> Tokens:
    return Tokens("r-1", "verifier", offset, list(ids))


async def test_repeated_tokens_are_dropped_and_the_first_end_ends_it(desk: Desk) -> None:
    before = unclaimed("Finished")
    with desk.replies.waiting(REQUEST, TOPIC) as waiter:
        for message in (tokens(0, 7), tokens(0, 7, 8), tokens(1, 8, 9), END, END):
            await desk.replies.receive(message)
        events = [event async for event in desk.replies.events(waiter, 10)]
    assert events == [Arrival(0, [7]), Arrival(1, [8]), Arrival(2, [9]), END]
    assert unclaimed("Finished") == before + 1
    assert await desk.bus.lag(TOPIC) == 0


async def test_what_is_told_of_tokens_is_cut_where_they_are(desk: Desk) -> None:
    said = [Logprobs(-float(n), [], []) for n in range(4)]
    rounds = [
        RoundTrace(0, 0, 2, 0, [], 0, [], 0.0, 1, Times()),
        RoundTrace(1, 2, 2, 0, [], 0, [], 0.0, 1, Times()),
    ]
    with desk.replies.waiting(REQUEST, TOPIC) as waiter:
        await desk.replies.receive(Tokens("r-1", "v", 0, [7, 8], said[:2], rounds[:1]))
        # Another verifier has taken over, and begins anew.
        await desk.replies.receive(Tokens("r-1", "w", 0, [7, 8, 9, 1], said, rounds))
        await desk.replies.receive(END)
        events = [event async for event in desk.replies.events(waiter, 10)]
    assert events == [
        Arrival(0, [7, 8], said[:2], rounds[:1]),
        Arrival(2, [9, 1], said[2:], rounds[1:]),
        END,
    ]


async def test_an_end_for_nobody_is_counted(desk: Desk) -> None:
    before = unclaimed("Failed")
    await desk.replies.receive(Failed("r-2", "internal_error", "x"))
    assert unclaimed("Failed") == before + 1


async def test_who_works_for_nobody_is_told_to_stop(desk: Desk) -> None:
    async with desk.bus.receive("verifier") as messages:
        await desk.replies.receive(tokens(0, 7))
        assert await asyncio.wait_for(anext(messages), 5) == Cancel("r-1")


async def test_a_gap_has_the_request_published_again(desk: Desk) -> None:
    with desk.replies.waiting(REQUEST, TOPIC) as waiter:
        await desk.replies.receive(tokens(1, 8))
        events = desk.replies.events(waiter, 10)
        arrival = asyncio.ensure_future(anext(events))
        async with desk.bus.subscribe(TOPIC) as subscription:
            assert (await asyncio.wait_for(subscription.next(), 10)).message == REQUEST
        await desk.replies.receive(tokens(0, 7, 8))
        assert await arrival == Arrival(0, [7, 8])
        await events.aclose()
