"""Fixtures that several folders of tests share."""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from shared.bus import Bus, connect
from shared.config import BusConfig
from shared.runner import new_event_loop
from tests.redis_server import RedisServer

# A run in the background may have it ignored, and with it all that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in each run, so that a red build is its change's fault, and no deadline on a
# busy machine. `pytest --hypothesis-profile explore` looks further.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("steady")


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop that services run on."""
    return {"services": new_event_loop}


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One real server for all tests that do not break it."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A real server for one test to break."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=["memory", "redis"])
def bus_config(request: pytest.FixtureRequest) -> BusConfig:
    """Settings of both kinds of bus, impatient, and a namespace for each test."""
    url = "memory://"
    if request.param == "redis":
        url = request.getfixturevalue("redis_server").url
    return BusConfig(
        url=url, key_prefix=uuid.uuid4().hex, lease_s=0.5, delivery_lease_s=0.6, retry_s=5
    )


@pytest.fixture
async def bus(bus_config: BusConfig) -> AsyncIterator[Bus]:
    """A bus of either kind."""
    bus = connect(bus_config)
    yield bus
    await bus.close()
