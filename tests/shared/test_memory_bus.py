"""What the embedded bus alone must do: serve consumers in their order, as Redis does by itself, and
read once what goes to several inboxes of the process."""

from __future__ import annotations

import asyncio

from shared.bus.memory import MemoryBus
from shared.config import BusConfig
from shared.messages import RecommendRequest
from shared.topics import Topic

TOPIC = Topic("work", RecommendRequest, "workers")


def request(number: int) -> RecommendRequest:
    return RecommendRequest(str(number), "inbox", {}, None, 1, 0.0)


async def settled() -> None:
    """Everybody has come as far as they can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_who_answers_at_once_waits_behind_the_others() -> None:
    """Or it would take each try of a request that only another can serve."""
    bus = MemoryBus(BusConfig())
    async with bus.subscribe(TOPIC) as quick, bus.subscribe(TOPIC) as patient:
        first = asyncio.create_task(quick.next())
        await settled()
        waiting = asyncio.create_task(patient.next())
        await settled()
        for number in range(3):
            await bus.publish(TOPIC, request(number))
            delivery = await first
            acknowledged = asyncio.create_task(
                delivery.ack() if number else delivery.answer("inbox", request(number))
            )
            first = asyncio.create_task(quick.next())
            await acknowledged
            await settled()
            await bus.publish(TOPIC, request(10 + number))
            own = await asyncio.wait_for(waiting, 5)
            assert own.message.request_id == str(10 + number)
            await own.ack()
            waiting = asyncio.create_task(patient.next())
            await settled()
        for task in (first, waiting):
            task.cancel()
        await asyncio.wait([first, waiting])


async def test_what_goes_to_several_inboxes_is_read_once() -> None:
    bus = MemoryBus(BusConfig())
    async with bus.receive("one") as one, bus.receive("other") as other:
        sent = request(1)
        await bus.send(["one", "other", "nobody's"], sent)
        received = await anext(one)
        assert received == sent
        assert received is not sent  # what its sender holds stays its own
        assert await anext(other) is received
