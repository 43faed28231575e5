"""A host runs what is wanted: starts, changes and ends services while it serves."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest

from shared import hosting
from shared.bus import connect
from shared.config import BusConfig
from shared.errors import BusError, ModelError
from shared.hosting import Host, Key, Wanted
from shared.service import Service


@dataclass
class House:
    """What is wanted, and what has happened, in order."""

    wanted: dict[Key, Callable[[], Service]] = field(default_factory=dict)
    happened: list[str] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    error: Exception | None = None
    failed: threading.Event = field(default_factory=threading.Event)

    def read(self) -> Wanted:
        if self.error is not None:
            self.failed.set()
            raise self.error
        return dict(self.wanted)

    async def say(self, text: str) -> None:
        async with self.changed:
            self.happened.append(text)
            self.changed.notify_all()

    async def until(self, *texts: str) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: self.happened[-len(texts) :] == list(texts))


class Room(Service):
    def __init__(self, house: House, name: str, fault: Exception | None = None) -> None:
        super().__init__("room", name, BUS, CONFIG)
        self.house = house
        self.fault = fault
        self.broken = asyncio.Event()

    async def load(self) -> None:
        if self.fault is not None:
            await self.house.say(f"{self.name} failed")
            raise self.fault

    async def serve(self) -> None:
        await self.announce({})
        await self.house.say(f"{self.name} on")
        ends = [asyncio.ensure_future(e.wait()) for e in (self.draining, self.broken)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        await self.house.say(f"{self.name} off")

    async def retire(self) -> None:
        await self.house.say(f"{self.name} retires")
        self.drain()


CONFIG = BusConfig()
BUS = connect(CONFIG)


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setattr(hosting, "POLL_S", 0.01)
    return House()


@asynccontextmanager
async def hosted(house: House) -> AsyncIterator[tuple[Host, asyncio.Task[None]]]:
    host = Host("room", "house", BUS, CONFIG, house.read)
    task = asyncio.create_task(host.run())
    try:
        yield host, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_services_come_and_go_as_they_are_wanted(house: House) -> None:
    house.wanted = {Key("a"): partial(Room, house, "a")}
    async with hosted(house) as (host, task):
        await host.ready.wait()
        assert [service.name for service in host.members()] == ["a"]
        house.wanted[Key("b")] = partial(Room, house, "b")
        await house.until("a on", "b on")
        del house.wanted[Key("a")]
        await house.until("a retires", "a off")
        assert [service.name for service in host.members()] == ["b"]
        host.drain()
        await task
    assert house.happened[-1] == "b off"
    assert await BUS.announce([], 1.0) == []


async def test_what_changes_is_drained_before_its_successor_starts(house: House) -> None:
    house.wanted = {Key("a", 1): partial(Room, house, "a")}
    async with hosted(house) as (host, _):
        await host.ready.wait()
        house.wanted = {Key("a", 2): partial(Room, house, "a")}
        await house.until("a on", "a off", "a on")
        assert "a retires" not in house.happened


async def test_what_cannot_be_loaded_is_told_once_and_the_others_go_on(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.wanted = {Key("a"): partial(Room, house, "a")}
    async with hosted(house) as (host, _):
        await host.ready.wait()
        house.wanted[Key("bad", 1)] = partial(Room, house, "bad", ModelError("is damaged"))
        house.wanted[Key("b")] = partial(Room, house, "b")
        await house.until("a on", "bad failed", "b on")
        del house.wanted[Key("b")]
        await house.until("b retires", "b off")
        assert house.happened.count("bad failed") == 1
        house.wanted[Key("bad", 2)] = partial(Room, house, "bad")
        del house.wanted[Key("bad", 1)]
        await house.until("bad on")
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert told == ["bad is not served: is damaged"]


async def test_an_absent_bus_is_tried_again(house: House) -> None:
    faults: list[Exception | None] = [BusError("away"), None]
    house.wanted = {Key("a"): partial(Room, house, "a")}
    async with hosted(house) as (host, _):
        await host.ready.wait()
        house.wanted[Key("b")] = lambda: Room(house, "b", faults.pop(0))
        await house.until("b failed", "b on")


async def test_a_list_that_cannot_be_read_changes_nothing(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.wanted = {Key("a"): partial(Room, house, "a")}
    async with hosted(house) as (host, _):
        await host.ready.wait()
        house.error = ModelError("is no JSON")
        assert await asyncio.to_thread(house.failed.wait, 10)
        house.error, house.wanted[Key("b")] = None, partial(Room, house, "b")
        await house.until("a on", "b on")
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR] == [
        "what is served stays as it was: is no JSON"
    ]


async def test_at_the_start_a_fault_ends_the_host(house: House) -> None:
    house.wanted = {
        Key("a"): partial(Room, house, "a"),
        Key("bad"): partial(Room, house, "bad", ModelError("is damaged")),
    }
    async with hosted(house) as (host, task):
        with pytest.raises(ModelError, match="is damaged"):
            await task
        assert not host.ready.is_set()
    assert await BUS.announce([], 1.0) == []


async def test_a_service_that_ends_by_itself_ends_the_host(house: House) -> None:
    house.wanted = {Key("a"): partial(Room, house, "a")}
    async with hosted(house) as (host, task):
        await host.ready.wait()
        (room,) = host.members()
        assert isinstance(room, Room)
        room.broken.set()
        with pytest.raises(RuntimeError, match="ended without being asked to"):
            await task
