"""The bus while its Redis server restarts, forgets, stands still, fills up or has another time."""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.bus import Bus, connect
from shared.config import BusConfig
from shared.errors import BusError, ConfigError
from shared.messages import Cancel
from tests.redis_cluster import RedisCluster, Watched
from tests.redis_server import RedisServer, free_port
from tests.shared.test_bus_contract import TOPIC, request, soon

pytestmark = pytest.mark.alone

Several = Callable[[Path], AbstractAsyncContextManager[tuple[BusConfig, RedisServer]]]
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
    with pytest.raises(BusError, match="out of reach"):
        await bus.send_all([("mine", Cancel("1")), ("yours", Cancel("2"))])
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


@asynccontextmanager
async def sentinels(folder: Path) -> AsyncIterator[tuple[BusConfig, RedisServer]]:
    watched = Watched(folder)
    try:
        await watched.start()
        config = BusConfig(url=watched.url, sentinel_master=Watched.NAME, delivery_lease_s=1.0)
        yield config, watched.master
    finally:
        watched.kill()


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[tuple[BusConfig, RedisServer]]:
    servers = RedisCluster(folder)
    try:
        await servers.start()
        owner = servers.owner("quorum")
        await servers.replicate(owner)
        yield BusConfig(url=servers.url, delivery_lease_s=1.0), owner
    finally:
        servers.kill()


@pytest.mark.parametrize("several", [sentinels, cluster])
async def test_a_failover_only_delays(several: Several, tmp_path: Path) -> None:
    async with several(tmp_path) as (config, master), AsyncExitStack() as stack:
        bus = connect(config)
        stack.push_async_callback(bus.close)
        messages = await stack.enter_async_context(bus.receive("mine"))
        subscription = await stack.enter_async_context(bus.subscribe(TOPIC))
        for number in range(20):
            await bus.publish(TOPIC, request(number))
        held = await soon(subscription)
        async with Redis.from_url(master.url) as client:
            assert await client.wait(1, 5000) == 1
        await asyncio.to_thread(master.kill)
        await asyncio.wait_for(held.answer("mine", Cancel(held.message.request_id)), 30)
        await bus.publish(TOPIC, request(20))
        seen = {held.message.request_id}
        while len(seen) < 21:
            delivery = await asyncio.wait_for(subscription.next(), 30)
            seen.add(delivery.message.request_id)
            await delivery.ack()
        assert seen == {str(number) for number in range(21)}
        await until_heard(bus, messages)
        assert await bus.lag(TOPIC) == 0


async def until_heard(bus: Bus, messages: AsyncIterator[object]) -> None:
    """The inbox works again; what was sent to it before may be lost with the old master."""
    mail = asyncio.create_task(anext(messages))
    async with asyncio.timeout(30):
        while not mail.done():
            await bus.send(["mine"], Cancel("x"))
            await asyncio.wait([mail], timeout=0.1)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://a:x,b:6380", "'a:x' in 'a:x,b:6380' is not HOST or HOST:PORT"),
        ("redis://a:1,,b:2", "'' in 'a:1,,b:2'"),
    ],
)
def test_an_address_that_is_none_is_named(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        connect(BusConfig(url=url))


async def test_nobody_to_ask_is_reported_with_whom_was_asked() -> None:
    ports = [free_port(), free_port()]
    url = f"redis://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}/0"
    bus = connect(BusConfig(url=url, sentinel_master="main", retry_s=0.1))
    with pytest.raises(BusError, match=f"127.0.0.1:{ports[1]} do not tell where main is"):
        await bus.publish(TOPIC, request(1))
    await bus.close()


async def test_many_published_at_once_come_in_order_and_once(
    fragile: Bus, own_redis_server: RedisServer
) -> None:
    """They go together; a server that has forgotten its scripts in between is told them again."""
    async with Redis.from_url(own_redis_server.url) as admin:
        for start in (0, 200):
            await admin.script_flush()
            await asyncio.gather(
                *(fragile.publish(TOPIC, request(number)) for number in range(start, start + 200))
            )
    async with fragile.subscribe(TOPIC) as subscription:
        for number in range(400):
            delivery = await soon(subscription)
            assert delivery.message == request(number)
            await delivery.ack()
    assert await fragile.lag(TOPIC) == 0


async def test_of_many_published_at_once_a_topic_takes_what_it_holds(
    own_redis_server: RedisServer,
) -> None:
    bus = connect(BusConfig(url=own_redis_server.url, max_topic_messages=30))
    told = await asyncio.gather(
        *(bus.publish(TOPIC, request(number)) for number in range(50)), return_exceptions=True
    )
    assert told[:30] == [None] * 30
    assert all(isinstance(error, BusError) for error in told[30:])
    assert await bus.lag(TOPIC) == 30
    await bus.close()


async def test_what_a_server_took_before_it_was_full_counts_as_taken(
    own_redis_server: RedisServer,
) -> None:
    """Of publications that go together, each is told its own."""
    bus = connect(BusConfig(url=own_redis_server.url))
    await bus.publish(TOPIC, request(0))
    async with Redis.from_url(own_redis_server.url) as admin:
        used = int((await admin.info("memory"))["used_memory"])
        await admin.config_set("maxmemory", used + (4 << 20))
        told = await asyncio.gather(
            *(bus.publish(TOPIC, request(number, 200_000)) for number in range(1, 60)),
            return_exceptions=True,
        )
        await admin.config_set("maxmemory", 0)
    taken = [number for number, result in enumerate(told, 1) if result is None]
    assert 0 < len(taken) < 59
    assert await bus.lag(TOPIC) == 1 + len(taken)
    async with bus.subscribe(TOPIC) as subscription:
        for number in (0, *taken):
            delivery = await soon(subscription)
            assert delivery.message.request_id == str(number)
            await delivery.ack()
    await bus.close()
