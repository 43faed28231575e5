"""What recommenders say of themselves: asked once, of another where one is silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from services.gateway.recommendation import descriptions
from services.gateway.recommendation.descriptions import (
    Described,
    Descriptions,
    version_at,
    versions_of,
)
from shared.bus.base import Instance
from shared.bus.memory import MemoryBus
from shared.config import BusConfig
from shared.errors import UnavailableError
from shared.registry import Registry
from shared.tensor_messages import DescribeRequest, Description

LABELLED = {"version": "3", "versions": "canary=4,stable=3"}


def instance(name: str, attributes: dict[str, str] | None = None) -> Instance:
    given = {"version": "3", "versions": "3"} if attributes is None else attributes
    return Instance(name, "recommender", "toy", name, given)


@pytest.mark.parametrize(
    ("attributes", "wanted", "version"),
    [
        ({"version": "3", "versions": "3"}, None, "3"),
        ({"version": "3", "versions": "3"}, "3", "3"),
        ({"version": "3", "versions": "3"}, "4", None),
        (LABELLED, None, "3"),
        (LABELLED, "stable", "3"),
        (LABELLED, "canary", "4"),
        (LABELLED, "4", "4"),
        (LABELLED, "", None),
        ({}, None, None),
        ({}, "3", None),
    ],
)
def test_a_version_is_found_by_its_name_and_by_its_labels(
    attributes: dict[str, str], wanted: str | None, version: str | None
) -> None:
    assert version_at(instance("a", attributes), wanted) == version


def test_an_instance_may_serve_several_versions() -> None:
    assert versions_of(instance("a", LABELLED)) == ["4", "3"]


class Desk:
    """Descriptions on a bus of their own, with peers that say what they are told to."""

    def __init__(self) -> None:
        self.bus = MemoryBus(BusConfig())
        self.registry = Registry(self.bus, 60)
        self.descriptions = Descriptions(self.bus, self.registry, "gateway")
        self.asked: list[tuple[str, str]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.inboxes = AsyncExitStack()

    async def add(self, peer: Instance, says: str | None) -> Instance:
        await self.registry.announce(peer)
        messages = await self.inboxes.enter_async_context(self.bus.receive(peer.inbox))
        self.tasks.append(asyncio.create_task(self._answer(peer.inbox, messages, says)))
        return peer

    async def _answer(self, inbox: str, messages: AsyncIterator[object], says: str | None) -> None:
        async for message in messages:
            assert isinstance(message, DescribeRequest)
            self.asked.append((inbox, message.version))
            if says is not None:
                self.descriptions.receive(Description(message.request_id, says))
                self.descriptions.receive(Description(message.request_id, "again"))
            self.descriptions.receive(Description("nobody's", "{}"))


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(descriptions, "PATIENCE_S", 0.05)
    desk = Desk()
    yield desk
    for task in desk.tasks:
        task.cancel()
    await asyncio.gather(*desk.tasks, return_exceptions=True)
    await desk.inboxes.aclose()
    await desk.bus.close()


SOUND = Described(model="toy", version="3", inputs=[], outputs=[], plan={"profile": "u280"})
TEXT = SOUND.model_dump_json()


async def test_each_version_of_an_instance_is_asked_once(desk: Desk) -> None:
    peer = await desk.add(instance("a", LABELLED), TEXT)
    for wanted in (None, "stable", "3", "canary", "4"):
        assert await desk.descriptions.of([peer], wanted) == SOUND
    assert desk.asked == [("a", "3"), ("a", "4")]


async def test_who_is_silent_or_says_what_is_not_understood_is_passed_over(desk: Desk) -> None:
    peers = [
        await desk.add(instance("silent"), None),
        await desk.add(instance("vague"), '{"model": "toy"}'),
        await desk.add(instance("sound"), TEXT),
    ]
    assert await desk.descriptions.of(peers, None) == SOUND
    assert [name for name, _ in desk.asked] == ["silent", "vague", "sound"]
    assert await desk.descriptions.of(peers, None) == SOUND
    assert len(desk.asked) == 3


async def test_who_has_gone_is_forgotten(desk: Desk) -> None:
    first, second = await desk.add(instance("a"), TEXT), await desk.add(instance("b"), TEXT)
    await desk.descriptions.of([first], None)
    await desk.registry.withdraw("a")
    await desk.descriptions.of([second], None)
    await desk.descriptions.of([first], None)
    assert [name for name, _ in desk.asked] == ["a", "b", "a"]


async def test_where_nobody_answers_it_is_unavailable(desk: Desk) -> None:
    peer = await desk.add(instance("silent"), None)
    with pytest.raises(UnavailableError, match="no recommender says what it serves"):
        await desk.descriptions.of([peer], None)
