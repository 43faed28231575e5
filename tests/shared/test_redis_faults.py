"""The bus while its Redis server restarts, forgets, stands still, fills up or has another time."""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.bus import Bus, connect
from shared.config import BusConfig
from shared.errors import BusError
from shared.messages import Cancel
from tests.redis_server import RedisServer
from tests.shared.test_bus_contract import TOPIC, request, soon

Full = Callable[[RedisServer], AbstractAsyncContextManager[None]]


@pytest.fixture
async def fragile(own_redis_server: RedisServer) -> AsyncIterator[Bus]:
    config = BusConfig(
        url=own_redis_server.url, delivery_lease_s=0.6, retry_s=20, key_prefix=uuid.uuid4().hex
    )
    bus = connect(config)
    yield bus
    await bus.close()


async def test_readers_and_writers_survive_a_restart_of_redis(
    fragile: Bus, own_redis_server: RedisServer
) -> None:
    async with AsyncExitStack() as stack:
        subscription = await stack.enter_async_context(fragile.subscribe(TOPIC))
        messages = await stack.enter_async_context(fragile.receive("mine"))
        await fragile.publish(TOPIC, request(0))
        await (await soon(subscription)).ack()
        await fragile.publish(TOPIC, request(1))
        waiting = asyncio.create_task(anext(messages))
        await asyncio.to_thread(own_redis_server.stop)
        publishing = asyncio.create_task(fragile.publish(TOPIC, request(2)))
        await asyncio.to_thread(own_redis_server.start)
        await publishing
        await fragile.send(["mine"], Cancel("1"))
        assert await asyncio.wait_for(waiting, 10) == Cancel("1")
        seen = set()
        while seen != {"1", "2"}:
            delivery = await asyncio.wait_for(subscription.next(), 10)
            seen.add(delivery.message.request_id)
            await delivery.ack()


async def test_a_server_that_forgot_everything_is_set_up_again(
    fragile: Bus, own_redis_server: RedisServer
) -> None:
    async with fragile.subscribe(TOPIC) as subscription, fragile.receive("mine") as messages:
        await fragile.publish(TOPIC, request(0))
        await (await soon(subscription)).ack()
        async with Redis.from_url(own_redis_server.url) as client:
            await client.flushall()
        await fragile.publish(TOPIC, request(1))
        assert (await soon(subscription)).message == request(1)
        mail = asyncio.create_task(anext(messages))
        give_up = time.monotonic() + 10
        while not mail.done():
            await fragile.send(["mine"], Cancel("1"))
            await asyncio.wait([mail], timeout=0.1)
            assert time.monotonic() < give_up
        assert mail.result() == Cancel("1")


async def test_a_wrong_clock_of_this_machine_is_set_right_by_the_server(
    fragile: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time
    monkeypatch.setattr("shared.bus.redis.time.time", lambda: right() + 300)
    await fragile.announce([], 3.0)
    assert abs(fragile.now() - right()) < 1.0


async def test_an_absent_server_is_reported_after_the_patience_set(
    own_redis_server: RedisServer,
) -> None:
    bus = connect(BusConfig(url=own_redis_server.url, retry_s=0.3))
    await asyncio.to_thread(own_redis_server.stop)
    with pytest.raises(BusError, match="out of reach"):
        await bus.publish(TOPIC, request(1))
    await bus.close()
    await asyncio.to_thread(own_redis_server.start)


@asynccontextmanager
async def out_of_memory(server: RedisServer) -> AsyncIterator[None]:
    async with Redis.from_url(server.url) as client:
        await client.config_set("maxmemory", "1")
        yield
        await client.config_set("maxmemory", "0")


@asynccontextmanager
async def out_of_disk(server: RedisServer) -> AsyncIterator[None]:
    """Writes are refused once a snapshot has failed: a folder stands in its file's place."""
    obstacle = server.folder / "dump.rdb" / "obstacle"
    await asyncio.to_thread(obstacle.mkdir, parents=True)
    async with Redis.from_url(server.url) as client:
        await client.config_set("save", "3600 1")
        await snapshot(client, "err")
        yield
        await asyncio.to_thread(shutil.rmtree, obstacle.parent)
        await snapshot(client, "ok")


async def snapshot(client: Redis, status: str) -> None:
    """Saves until it ends so: another save may be under way."""
    give_up = time.monotonic() + 20
    while (await client.info("persistence"))["rdb_last_bgsave_status"] != status:
        assert time.monotonic() < give_up
        with suppress(ResponseError):
            await client.bgsave()


FULL = [(out_of_memory, "out of memory"), (out_of_disk, "cannot write to its disk")]


@pytest.mark.parametrize(("full", "reason"), FULL)
async def test_a_full_server_refuses_new_work_at_once(
    full: Full, reason: str, fragile: Bus, own_redis_server: RedisServer
) -> None:
    async with full(own_redis_server):
        with pytest.raises(BusError, match=reason):
            await asyncio.wait_for(fragile.publish(TOPIC, request(1)), 5)


@pytest.mark.parametrize(("full", "reason"), FULL)
async def test_work_under_way_outlasts_a_full_server(
    full: Full, reason: str, own_redis_server: RedisServer
) -> None:
    # Leases longer than the trouble, which a full disk does not let renew.
    bus = connect(BusConfig(url=own_redis_server.url, delivery_lease_s=30))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(bus.close)
        messages = await stack.enter_async_context(bus.receive("mine"))
        subscription = await stack.enter_async_context(bus.subscribe(TOPIC))
        await bus.publish(TOPIC, request(0))
        delivery = await soon(subscription)
        async with full(own_redis_server):
            mail = asyncio.create_task(anext(messages))
            more = asyncio.create_task(subscription.next())
            answering = asyncio.create_task(delivery.answer("mine", Cancel("0")))
            waiting = {answering, more, mail}
            assert await asyncio.wait(waiting, timeout=1, return_when=asyncio.FIRST_COMPLETED) == (
                set(),
                waiting,
            ), reason
        await asyncio.wait_for(answering, 20)
        assert await asyncio.wait_for(mail, 20) == Cancel("0")
        await bus.publish(TOPIC, request(1))
        assert (await asyncio.wait_for(more, 20)).message == request(1)


async def test_a_lease_is_renewed_while_the_answer_waits_for_memory(
    fragile: Bus, own_redis_server: RedisServer
) -> None:
    async with fragile.receive("mine") as messages, fragile.subscribe(TOPIC) as subscription:
        await fragile.publish(TOPIC, request(0))
        delivery = await soon(subscription)
        async with out_of_memory(own_redis_server):
            again = asyncio.create_task(subscription.next())
            answering = asyncio.create_task(delivery.answer("mine", Cancel("0")))
            # Three times its length.
            waiting = {again, answering}
            assert await asyncio.wait(
                waiting, timeout=1.8, return_when=asyncio.FIRST_COMPLETED
            ) == (set(), waiting)
        assert await asyncio.wait_for(answering, 20)
        assert await asyncio.wait_for(anext(messages), 20) == Cancel("0")
        await fragile.publish(TOPIC, request(1))
        assert (await asyncio.wait_for(again, 20)).message == request(1)


async def test_a_publication_that_is_tried_again_is_one(
    own_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.bus.redis_client.TIMEOUT_S", 0.2)
    bus = connect(BusConfig(url=own_redis_server.url))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(bus.close)
        subscription = await stack.enter_async_context(bus.subscribe(TOPIC))
        await bus.publish(TOPIC, request(0))
        await (await soon(subscription)).ack()
        retries = REGISTRY.get_sample_value("bus_retries_total") or 0.0
        own_redis_server.pause()
        publishing = asyncio.create_task(bus.publish(TOPIC, request(1)))
        give_up = time.monotonic() + 20
        while (REGISTRY.get_sample_value("bus_retries_total") or 0.0) < retries + 3:
            await asyncio.wait([publishing], timeout=0.05)
            assert time.monotonic() < give_up
        own_redis_server.resume()
        await asyncio.wait_for(publishing, 20)
        await bus.publish(TOPIC, request(2))
        for number in (1, 2):
            delivery = await asyncio.wait_for(subscription.next(), 20)
            assert delivery.message == request(number)
            await delivery.ack()
        assert await bus.lag(TOPIC) == 0


async def test_a_paused_server_only_delays(fragile: Bus, own_redis_server: RedisServer) -> None:
    async with fragile.subscribe(TOPIC) as subscription:
        await fragile.publish(TOPIC, request(1))
        own_redis_server.pause()
        waiting = asyncio.create_task(subscription.next())
        await asyncio.wait([waiting], timeout=0.3)
        assert not waiting.done()
        own_redis_server.resume()
        assert (await asyncio.wait_for(waiting, 20)).message == request(1)
