"""Dead letters of a real Redis server: listed, shown, and put back once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis.asyncio import Redis

from shared.bus import Bus, connect
from shared.config import BusConfig
from shared.generation import Sampling
from shared.messages import GenerateRequest
from shared.tensor_messages import Tensor, WriteRows
from shared.topics import Topic, generate_requests, write_requests
from tests.cli.conftest import complaint, run, succeed
from tests.redis_server import RedisServer

GENERATE, WRITE = generate_requests("toy"), write_requests("shop")
WORDS = "kills\x1b[2J its consumers"


@pytest.fixture
def bus_config(redis_server: RedisServer) -> BusConfig:
    return BusConfig(url=redis_server.url, key_prefix=uuid.uuid4().hex, retry_s=5)


@pytest.fixture
def environment(bus_config: BusConfig) -> dict[str, str]:
    """What a shell would have set."""
    return {"BUS_URL": bus_config.url, "BUS_KEY_PREFIX": bus_config.key_prefix}


@pytest.fixture
async def bus(bus_config: BusConfig) -> AsyncIterator[Bus]:
    found = connect(bus_config)
    yield found
    await found.close()


def generation(number: int) -> GenerateRequest:
    prompt = list(range(100))
    return GenerateRequest(f"request-{number}", "gone", prompt, 5, Sampling(), [], 1.0)


async def bury(bus: Bus, topic: Topic, message: object, reason: str = WORDS) -> str:
    """Puts a message aside, or bytes that are none; the letter's id."""
    if isinstance(message, bytes):
        await bus.publish_bytes(topic.name, message)  # type: ignore[attr-defined]
        async with bus.subscribe(topic) as subscription, asyncio.timeout(10):
            await bus.publish(topic, generation(0))
            await (await subscription.next()).ack()
    else:
        await bus.publish(topic, message)
        async with bus.subscribe(topic) as subscription, asyncio.timeout(10):
            delivery = await subscription.next()
            await delivery.bury(reason)
            await delivery.ack()
    letters = [letter async for letter in bus.dead_letters() if letter.topic == topic.name]
    return letters[-1].letter_id


async def test_they_are_listed_with_when_what_and_why(
    bus: Bus, environment: dict[str, str]
) -> None:
    assert succeed("dead-letters", "list", **environment) == "no dead letters\n"
    first = await bury(bus, GENERATE, generation(1))
    rows = Tensor("int64", [1], bytes(8))
    write = WriteRows("write-1", "gone", "items", rows, rows, None, 1.0)
    second = await bury(bus, WRITE, write, "lost its model")
    third = await bury(bus, GENERATE, b"no message")
    text = succeed("dead-letters", "list", **environment)
    assert "\x1b" not in text
    head, *lines = text.splitlines()
    assert head.split() == ["id", "put", "aside", "topic", "type", "request", "why"]
    assert [line.split()[0] for line in lines] == [first, third, second]
    assert lines[0].split()[2:5] == [GENERATE.name, "GenerateRequest", "request-1"]
    assert lines[0].endswith("kills�[2J its consumers")
    assert lines[1].split()[3:5] == ["malformed", "-"]
    assert "not msgpack" in lines[1] or "not a message" in lines[1]
    assert lines[2].endswith("lost its model")
    of_one = succeed("dead-letters", "list", "--topic", WRITE.name, **environment)
    assert [line.split()[0] for line in of_one.splitlines()[1:]] == [second]


async def test_one_is_shown_whole_and_long_lists_cut(bus: Bus, environment: dict[str, str]) -> None:
    letter = await bury(bus, GENERATE, generation(7))
    text = succeed("dead-letters", "show", letter, **environment)
    assert f"id         {GENERATE.name}/{letter}" in text
    assert '"request_id": "request-7"' in text
    assert '"... 100 in all"' in text
    assert succeed("dead-letters", "show", f"{GENERATE.name}/{letter}", **environment) == text
    broken = await bury(bus, GENERATE, b"\xc1 no message")
    text = succeed("dead-letters", "show", broken, **environment)
    assert "malformed  not msgpack" in text
    assert r"b'\xc1 no message'" in text


async def test_one_goes_back_once_with_time_to_be_answered_in(
    bus: Bus, environment: dict[str, str]
) -> None:
    kept = await bury(bus, GENERATE, generation(1))
    letter = await bury(bus, GENERATE, generation(2))
    done = succeed("dead-letters", "replay", letter, "--timeout", 60, **environment)
    assert done == "1 put back\n"
    assert "no dead letter" in complaint(1, "dead-letters", "replay", letter, **environment)
    assert [found.letter_id async for found in bus.dead_letters()] == [kept]
    async with bus.subscribe(GENERATE) as subscription, asyncio.timeout(10):
        delivery = await subscription.next()
        assert (delivery.message.request_id, delivery.num_deliveries) == ("request-2", 1)
        assert delivery.message.prompt == generation(2).prompt
        assert 0 < delivery.message.deadline - bus.now() < 61
        await delivery.ack()
    assert await bus.lag(GENERATE) == 0


async def test_of_several_who_put_one_back_one_does(bus: Bus, environment: dict[str, str]) -> None:
    letter = await bury(bus, GENERATE, generation(1))
    with ThreadPoolExecutor() as pool:
        codes = list(
            pool.map(
                lambda _: run("dead-letters", "replay", letter, **environment).returncode, range(3)
            )
        )
    assert sorted(codes) == [0, 1, 1]
    assert await bus.lag(GENERATE) == 1


async def test_all_go_back_or_those_of_a_topic(bus: Bus, environment: dict[str, str]) -> None:
    for number in range(20):
        await bury(bus, GENERATE, generation(number))
    asked = ("dead-letters", "replay", "--all")
    assert succeed(*asked, "--topic", WRITE.name, **environment) == "0 put back\n"
    assert succeed(*asked, "--topic", GENERATE.name, **environment) == "20 put back\n"
    assert succeed(*asked, **environment) == "0 put back\n"
    assert await bus.lag(GENERATE) == 20


async def test_what_cannot_be_read_goes_back_as_it_is(
    bus: Bus, environment: dict[str, str]
) -> None:
    await bury(bus, GENERATE, b"of a later version")
    assert succeed("dead-letters", "replay", "--all", **environment) == "1 put back\n"
    async with bus.subscribe(GENERATE) as subscription, asyncio.timeout(10):
        await bus.publish(GENERATE, generation(1))
        await (await subscription.next()).ack()
    (letter,) = [found async for found in bus.dead_letters()]
    assert letter.data == b"of a later version"


async def test_an_id_of_two_topics_is_asked_about(
    bus: Bus, environment: dict[str, str], redis_server: RedisServer
) -> None:
    letter = await bury(bus, GENERATE, generation(1))
    prefix = f"{{{environment['BUS_KEY_PREFIX']}}}:dead:"
    async with Redis.from_url(redis_server.url) as client:
        await client.xadd(prefix + "other", {"m": b"x", "reason": b"y"}, id=letter)
    message = complaint(1, "dead-letters", "show", letter, **environment)
    assert f"{GENERATE.name}/{letter}, other/{letter}" in message
    assert "other" in succeed("dead-letters", "show", f"other/{letter}", **environment)


def test_where_there_is_no_server_it_is_said() -> None:
    assert "lies within one process" in complaint(2, "dead-letters", "list", BUS_URL="memory://")
    message = complaint(1, "dead-letters", "list", BUS_URL="redis://127.0.0.1:1/0", BUS_RETRY_S="0")
    assert "out of reach" in message
    assert "BUS_NOTHING is not a setting" in complaint(2, "dead-letters", "list", BUS_NOTHING="1")
