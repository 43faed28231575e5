"""What every bus promises, held to both of them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import msgpack
import pytest
from redis.asyncio import Redis

from shared.bus import (
    Backlog,
    Bus,
    DeadLetter,
    Delivery,
    Follower,
    Instance,
    Subscription,
    connect,
)
from shared.bus.memory import MemoryBus
from shared.bus.redis import RedisBus
from shared.bus.redis_client import RedisClient
from shared.bus.redis_topic import RedisSubscription
from shared.bus.turns import LOW_TURN
from shared.codec import MAX_MESSAGE_BYTES, encode
from shared.config import BusConfig
from shared.errors import BusError, OversizeError
from shared.messages import Cancel, RecommendRequest
from shared.topics import Topic
from tests.redis_cluster import RedisCluster

TOPIC = Topic("work", RecommendRequest, "workers")


def request(number: int, size: int = 1) -> RecommendRequest:
    return RecommendRequest(str(number), "inbox", {"x": ["y" * size]}, None, 1, 0.0)


async def soon(subscription: Subscription[RecommendRequest]) -> Delivery[RecommendRequest]:
    return await asyncio.wait_for(subscription.next(), 5)


@pytest.fixture(scope="module")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"))
    asyncio.run(cluster.start())
    yield cluster
    cluster.kill()


@pytest.fixture(params=["memory", "redis", "cluster"])
def bus_config(request: pytest.FixtureRequest) -> BusConfig:
    """Settings of every kind of bus, impatient, and a namespace for each test."""
    urls = {
        "memory": lambda: "memory://",
        "redis": lambda: request.getfixturevalue("redis_server").url,
        "cluster": lambda: request.getfixturevalue("redis_cluster").url,
    }
    return BusConfig(
        url=urls[request.param](),
        key_prefix=uuid.uuid4().hex,
        lease_s=0.5,
        delivery_lease_s=0.6,
        retry_s=5,
    )


@asynccontextmanager
async def raw(bus: RedisBus) -> AsyncIterator[Redis]:
    """The commands of the server that has the bus's keys."""
    client = RedisClient(bus.config)
    yield client.commands
    await client.close()


@pytest.fixture
async def other(bus: Bus, bus_config: BusConfig) -> AsyncIterator[Bus]:
    """Another process's bus, as far as there can be one: same state, own connections."""
    if isinstance(bus, MemoryBus):
        yield bus
        return
    second = connect(bus_config)
    yield second
    await second.close()


async def put_raw(bus: Bus, data: bytes) -> None:
    assert isinstance(bus, MemoryBus | RedisBus)
    await bus.publish_bytes(TOPIC.name, data)


async def dead_letters(bus: Bus) -> list[tuple[bytes, str]]:
    return [(letter.data, letter.reason) async for letter in bus.dead_letters()]


async def stored(bus: Bus) -> int:
    """Entries that the topic still holds."""
    if isinstance(bus, MemoryBus):
        return len(bus.log(TOPIC.name).entries)
    assert isinstance(bus, RedisBus)
    async with raw(bus) as client:
        return int(await client.xlen(f"{{{bus.config.key_prefix}}}:topic:{TOPIC.name}"))


async def take_away(bus: Bus) -> None:
    """Ends the lease of the one message that is held, as if its consumer stood still."""
    if isinstance(bus, MemoryBus):
        bus.log(TOPIC.name).pending[0].expires = 0.0
        return
    assert isinstance(bus, RedisBus)
    async with raw(bus) as client:
        key = f"{{{bus.config.key_prefix}}}:topic:{TOPIC.name}"
        ((entry, _),) = await client.xrange(key)
        await client.xclaim(key, TOPIC.group, "thief", 0, [entry], idle=100_000, justid=True)


async def abandon(bus: Bus) -> str:
    """Takes one message as a consumer that dies with it in hand."""
    async with bus.subscribe(TOPIC) as subscription:
        return (await soon(subscription)).message.request_id


async def test_messages_come_in_order_and_only_once(bus: Bus) -> None:
    for number in range(20):
        await bus.publish(TOPIC, request(number))
    async with bus.subscribe(TOPIC) as subscription:
        for number in range(20):
            delivery = await soon(subscription)
            assert delivery.message == request(number)
            assert delivery.num_deliveries == 1
            await delivery.ack()
    assert await stored(bus) == 0


async def test_what_was_published_before_the_first_consumer_is_delivered(bus: Bus) -> None:
    await bus.publish(TOPIC, request(1))
    async with bus.subscribe(TOPIC) as subscription:
        assert (await soon(subscription)).message == request(1)


async def test_a_waiting_consumer_gets_a_message_as_it_comes(bus: Bus) -> None:
    async with bus.subscribe(TOPIC) as subscription:
        waiting = asyncio.create_task(subscription.next())
        await bus.publish(TOPIC, request(1))
        assert (await asyncio.wait_for(waiting, 5)).message == request(1)


async def test_consumers_of_a_group_share_the_messages(bus: Bus, other: Bus) -> None:
    for number in range(10):
        await bus.publish(TOPIC, request(number))
    seen: list[str] = []
    async with bus.subscribe(TOPIC) as one, other.subscribe(TOPIC) as two:
        for _ in range(5):
            for subscription in (one, two):
                delivery = await soon(subscription)
                seen.append(delivery.message.request_id)
                await delivery.ack()
    assert sorted(seen, key=int) == [str(n) for n in range(10)]


async def test_nothing_is_fetched_ahead_of_demand(bus: Bus) -> None:
    for number in range(3):
        await bus.publish(TOPIC, request(number))
    async with bus.subscribe(TOPIC) as subscription:
        await soon(subscription)
        assert await bus.lag(TOPIC) == 2


async def test_lag_counts_what_nobody_was_handed(bus: Bus) -> None:
    assert await bus.lag(TOPIC) == 0
    await bus.publish(TOPIC, request(1))
    await bus.publish(TOPIC, request(2))
    assert await bus.lag(TOPIC) == 2
    async with bus.subscribe(TOPIC) as subscription:
        await (await soon(subscription)).ack()
        assert await bus.lag(TOPIC) == 1


async def test_a_backlog_is_as_old_as_the_oldest_message_that_nobody_was_handed(bus: Bus) -> None:
    assert await bus.backlog(TOPIC) == Backlog(0, 0.0)
    await bus.publish(TOPIC, request(1))
    await until_older(bus, 0.1)
    one_is_old = time.monotonic()
    await bus.publish(TOPIC, request(2))
    assert (await bus.backlog(TOPIC)).num_messages == 2
    async with bus.subscribe(TOPIC) as subscription:
        first = await soon(subscription)
        left = await bus.backlog(TOPIC)
        assert left.num_messages == 1
        assert left.age_s <= time.monotonic() - one_is_old + 0.001
        await until_older(bus, 0.05)
        await (await soon(subscription)).ack()
        assert await bus.backlog(TOPIC) == Backlog(0, 0.0), "what is in work does not wait"
        await first.ack()
    assert await bus.backlog(TOPIC) == Backlog(0, 0.0)


async def until_older(bus: Bus, age_s: float) -> None:
    """Until the oldest message that waits is older than that."""
    give_up = time.monotonic() + 5
    while (await bus.backlog(TOPIC)).age_s <= age_s:
        assert time.monotonic() < give_up


async def test_a_dead_consumers_message_is_delivered_again(bus: Bus, other: Bus) -> None:
    await bus.publish(TOPIC, request(1))
    assert await abandon(bus) == "1"
    async with other.subscribe(TOPIC) as subscription:
        delivery = await soon(subscription)
        assert delivery.message == request(1)
        assert delivery.num_deliveries == 2
        await delivery.ack()
    assert await stored(bus) == 0


async def test_a_long_job_keeps_its_lease(bus: Bus, other: Bus, bus_config: BusConfig) -> None:
    await bus.publish(TOPIC, request(1))
    async with bus.subscribe(TOPIC) as one, other.subscribe(TOPIC) as two:
        held = await soon(one)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(two.next(), 3 * bus_config.delivery_lease_s)
        assert not held.lost.is_set()
        await held.ack()
    assert await stored(bus) == 0


async def test_a_frozen_consumer_learns_that_it_lost_its_message(
    bus: Bus, other: Bus, bus_config: BusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bus.publish(TOPIC, request(1))
    async with bus.subscribe(TOPIC) as one, other.subscribe(TOPIC) as two:
        held = await soon(one)
        # A process that stands still does not renew: a loop that is held up is just that.
        taken = asyncio.create_task(two.next())
        await take_away(bus)
        await asyncio.wait_for(held.lost.wait(), 5)
        delivery = await asyncio.wait_for(taken, 5)
        assert delivery.message == request(1)
        await held.hand_back()
        await delivery.ack()
    assert await stored(bus) == 0


async def test_an_answer_is_sent_once_whoever_else_had_the_message(bus: Bus, other: Bus) -> None:
    """A consumer that lost its lease, and its successor, and each of them twice."""
    await bus.publish(TOPIC, request(1))
    async with (
        bus.receive("mine") as messages,
        bus.subscribe(TOPIC) as one,
        other.subscribe(TOPIC) as two,
    ):
        frozen = await soon(one)
        taken = asyncio.create_task(two.next())
        await take_away(bus)
        successor = await asyncio.wait_for(taken, 5)
        assert successor.message == request(1)
        assert not await frozen.answer("mine", Cancel("frozen"))
        assert await successor.answer("mine", Cancel("successor"))
        assert not await successor.answer("mine", Cancel("again"))
        assert not await frozen.answer("mine", Cancel("late"))
        await bus.send(["mine"], Cancel("end"))
        assert [await asyncio.wait_for(anext(messages), 5) for _ in range(2)] == [
            Cancel("successor"),
            Cancel("end"),
        ]
    assert await stored(bus) == 0


async def test_an_answer_to_an_inbox_that_is_gone_still_acknowledges(bus: Bus) -> None:
    await bus.publish(TOPIC, request(1))
    async with bus.subscribe(TOPIC) as subscription:
        assert await (await soon(subscription)).answer("nobody", Cancel("1"))
    assert await stored(bus) == 0


async def test_a_message_handed_back_goes_to_another_consumer_soon(bus: Bus, other: Bus) -> None:
    await bus.publish(TOPIC, request(1))
    async with bus.subscribe(TOPIC) as one, other.subscribe(TOPIC) as two:
        await (await soon(one)).hand_back()
        delivery = await soon(two)
        assert delivery.message == request(1)
        assert delivery.num_deliveries == 1


async def test_deliveries_are_counted_and_a_poisonous_message_can_be_put_aside(bus: Bus) -> None:
    await bus.publish(TOPIC, request(1))
    await abandon(bus)
    await abandon(bus)
    async with bus.subscribe(TOPIC) as subscription:
        delivery = await soon(subscription)
        assert delivery.num_deliveries == 3
        await delivery.bury("kills its consumers")
        await delivery.ack()
    assert await dead_letters(bus) == [(encode(request(1)), "kills its consumers")]
    assert await stored(bus) == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xc1 no msgpack", "not msgpack"),
        (msgpack.packb([1, 2]), "not a message"),
        (msgpack.packb({"v": 99, "type": "Cancel", "body": {}}), "schema version 99"),
        (msgpack.packb({"v": 1, "type": "Rumour", "body": {}}), "unknown message type 'Rumour'"),
        (
            msgpack.packb({"v": 1, "type": "Cancel", "body": {}}),
            "missing required field",
        ),
        (encode(Cancel("1")), "Cancel on topic work"),
        (b"x" * (MAX_MESSAGE_BYTES + 1), "the limit is"),
    ],
)
async def test_a_malformed_message_is_put_aside_and_stops_nobody(
    bus: Bus, data: bytes, reason: str
) -> None:
    await put_raw(bus, data)
    await bus.publish(TOPIC, request(1))
    async with bus.subscribe(TOPIC) as subscription:
        delivery = await soon(subscription)
        assert delivery.message == request(1)
        await delivery.ack()
    ((letter, why),) = await dead_letters(bus)
    assert letter == data
    assert reason in why
    assert await stored(bus) == 0


async def bury(bus: Bus, *messages: RecommendRequest) -> list[DeadLetter]:
    """Puts the messages aside, one after the other."""
    for message in messages:
        await bus.publish(TOPIC, message)
    async with bus.subscribe(TOPIC) as subscription:
        for message in messages:
            delivery = await soon(subscription)
            await delivery.bury(f"no. {message.request_id}")
            await delivery.ack()
    return [letter async for letter in bus.dead_letters()]


async def test_dead_letters_are_told_in_order_with_when_and_why(bus: Bus) -> None:
    assert [letter async for letter in bus.dead_letters()] == []
    before = bus.now() - 5
    letters = await bury(bus, *map(request, range(40)))
    assert [letter.data for letter in letters] == [encode(request(n)) for n in range(40)]
    assert [letter.reason for letter in letters] == [f"no. {n}" for n in range(40)]
    assert {letter.topic for letter in letters} == {TOPIC.name}
    assert len({letter.letter_id for letter in letters}) == 40
    assert all(before < letter.buried < before + 60 for letter in letters)


async def test_of_all_who_revive_a_letter_one_does(bus: Bus, other: Bus) -> None:
    first, second = await bury(bus, request(1), request(2))
    done = await asyncio.gather(
        *(b.revive(first, encode(request(3))) for b in (bus, other) for _ in range(5))
    )
    assert sorted(done) == [False] * 9 + [True]
    assert [letter async for letter in other.dead_letters()] == [second]
    assert await stored(bus) == 1
    async with bus.subscribe(TOPIC) as subscription:
        delivery = await soon(subscription)
        assert (delivery.message, delivery.num_deliveries) == (request(3), 1)
        await delivery.ack()


async def test_a_full_topic_leaves_the_letter_where_it_is(bus_config: BusConfig) -> None:
    bus = connect(bus_config.model_copy(update={"max_topic_messages": 1}))
    (letter,) = await bury(bus, request(1))
    await bus.publish(TOPIC, request(2))
    with pytest.raises(BusError, match="topic work holds its 1 messages already"):
        await bus.revive(letter, letter.data)
    assert [letter async for letter in bus.dead_letters()] == [letter]
    assert await stored(bus) == 1
    await bus.close()


async def test_an_oversize_message_is_refused_at_the_sender(bus: Bus) -> None:
    with pytest.raises(OversizeError, match="the limit is"):
        await bus.publish(TOPIC, request(1, MAX_MESSAGE_BYTES))


async def test_a_cancelled_wait_loses_no_message(bus: Bus) -> None:
    async with bus.subscribe(TOPIC) as subscription:
        for number in range(5):
            waiting = asyncio.create_task(subscription.next())
            await asyncio.wait([waiting], timeout=0.05 * (number % 2))
            await bus.publish(TOPIC, request(number))
            waiting.cancel()
            await asyncio.wait([waiting])
            # The message may have come in before the cancel did.
            was_cancelled = waiting.cancelled()
            delivery = await soon(subscription) if was_cancelled else waiting.result()
            assert delivery.message == request(number)
            await delivery.ack()


async def test_a_message_fetched_for_nobody_goes_back_on_leaving(bus: Bus) -> None:
    async with bus.subscribe(TOPIC) as subscription:
        waiting = asyncio.create_task(subscription.next())
        await asyncio.wait([waiting], timeout=0.05)
        waiting.cancel()
        await asyncio.wait([waiting])
        await bus.publish(TOPIC, request(1))
    async with bus.subscribe(TOPIC) as subscription:
        assert (await soon(subscription)).num_deliveries in (1, 2)


async def test_a_full_topic_refuses_instead_of_forgetting(bus_config: BusConfig) -> None:
    bus = connect(bus_config.model_copy(update={"max_topic_messages": 3}))
    for number in range(3):
        await bus.publish(TOPIC, request(number))
    with pytest.raises(BusError, match="holds its 3 messages"):
        await bus.publish(TOPIC, request(3))
    await bus.close()


async def test_an_inbox_keeps_the_order_and_drops_malformed_messages(bus: Bus) -> None:
    async with bus.receive("mine") as messages:
        for number in range(5):
            await bus.send(["mine"], Cancel(str(number)))
            if isinstance(bus, MemoryBus):
                bus.send_bytes("mine", b"rubbish")
            else:
                await bus.send_bytes(["mine"], b"rubbish")  # type: ignore[attr-defined]
        for number in range(5):
            assert await asyncio.wait_for(anext(messages), 5) == Cancel(str(number))


async def test_messages_sent_at_once_all_arrive_those_of_each_sender_in_order(bus: Bus) -> None:
    async with bus.receive("mine") as messages:

        async def send(sender: int) -> None:
            for number in range(20):
                await bus.send(["mine", "gone"], Cancel(f"{sender}-{number}"))

        await asyncio.gather(*(send(sender) for sender in range(10)))
        received = [(await anext(messages)).request_id for _ in range(200)]
    for sender in range(10):
        own = [name for name in received if name.startswith(f"{sender}-")]
        assert own == [f"{sender}-{number}" for number in range(20)]


async def test_one_message_reaches_several_inboxes(bus: Bus) -> None:
    async with bus.receive("a") as to_a, bus.receive("b") as to_b:
        await bus.send(["a", "b", "nobody"], Cancel("1"))
        assert await asyncio.wait_for(anext(to_a), 5) == Cancel("1")
        assert await asyncio.wait_for(anext(to_b), 5) == Cancel("1")


async def test_each_inbox_gets_its_messages_of_many_sent_together_in_order(bus: Bus) -> None:
    async with bus.receive("a") as first, bus.receive("b") as second:
        inboxes = ["a", "b", "nobody"] * 50
        await bus.send_all((inbox, Cancel(f"{n}")) for n, inbox in enumerate(inboxes))
        for start, messages in enumerate((first, second)):
            got = [await anext(messages) for _ in range(50)]
            assert got == [Cancel(f"{n}") for n in range(start, 150, 3)]


async def test_mail_for_an_inbox_that_is_gone_vanishes(bus: Bus) -> None:
    async with bus.receive("mine"):
        pass
    await bus.send(["mine"], Cancel("lost"))
    async with bus.receive("mine") as messages:
        await bus.send(["mine"], Cancel("kept"))
        assert await asyncio.wait_for(anext(messages), 5) == Cancel("kept")


async def test_a_full_inbox_drops_the_oldest(bus_config: BusConfig) -> None:
    bus = connect(bus_config.model_copy(update={"max_inbox_messages": 100}))
    async with bus.receive("mine") as messages:
        for number in range(1000):
            await bus.send(["mine"], Cancel(str(number)))
        first = await asyncio.wait_for(anext(messages), 5)
        assert isinstance(first, Cancel)
        # Redis trims whole nodes of a stream, so the bound is approximate there.
        assert 700 <= int(first.request_id) <= 900
    await bus.close()


def instance(name: str) -> Instance:
    return Instance(name, "drafter", "small", f"inbox.{name}", {"a": "b"})


async def test_instances_are_seen_until_their_lease_ends_or_they_withdraw(
    bus: Bus, other: Bus
) -> None:
    assert await bus.announce([instance("b")], 0.2) == [instance("b")]
    assert await other.announce([instance("a")], 30) == [instance("a"), instance("b")]
    give_up = time.monotonic() + 5
    while await bus.announce([], 1) != [instance("a")]:
        assert time.monotonic() < give_up
    await bus.withdraw(["a", "unknown"])
    assert await bus.announce([], 1) == []


async def test_a_board_is_scaled_atomically_and_within_bounds(bus: Bus, other: Bus) -> None:
    assert await bus.scale("w", {}, 0.1, 10) == {}
    assert await bus.scale("w", {"x": 2.0, "y": 0.5}, 0.1, 10) == {"x": 2.0, "y": 0.5}
    await asyncio.gather(*(bus.scale("w", {"x": 1.1}, 0.1, 10) for _ in range(10)))
    board = await other.scale("w", {"y": 1e-9}, 0.1, 10)
    assert board["x"] == pytest.approx(2 * 1.1**10)
    assert board["y"] == 0.1
    assert (await bus.scale("w", {"x": 1e9}, 0.1, 10))["x"] == 10


# What only a server can do to its clients.


async def test_the_bus_has_a_clock(bus: Bus) -> None:
    await bus.announce([], 3.0)
    assert abs(bus.now() - time.time()) < 1.0


async def told(follower: Follower) -> object:
    return await asyncio.wait_for(follower.next(), 5)


async def test_every_reader_of_a_journal_gets_all_of_it_in_order(bus: Bus, other: Bus) -> None:
    for number in range(40):
        await bus.record("journal", request(number))
    async with bus.follow("journal") as first, other.follow("journal") as second:
        assert not first.is_current
        for number in range(40):
            assert await told(first) == request(number)
            assert await told(second) == request(number)
        assert first.is_current
        await other.record("journal", request(40))
        assert [await told(reader) for reader in (first, second)] == [request(40)] * 2
    async with bus.follow("journal") as late:
        assert [await told(late) for _ in range(41)] == [request(number) for number in range(41)]


async def test_a_reader_of_an_empty_journal_waits_and_is_current(bus: Bus) -> None:
    async with bus.follow("journal") as follower, bus.follow("other") as elsewhere:
        assert follower.is_current
        waiting = asyncio.create_task(follower.next())
        await bus.record("journal", request(1))
        assert await asyncio.wait_for(waiting, 5) == request(1)
        assert elsewhere.is_current


async def test_a_full_journal_refuses_and_drops_nothing(bus_config: BusConfig) -> None:
    small = connect(bus_config.model_copy(update={"max_journal_messages": 2}))
    for number in range(2):
        await small.record("journal", request(number))
    with pytest.raises(BusError, match="journal journal holds its 2 messages"):
        await small.record("journal", request(2))
    async with small.follow("journal") as follower:
        assert [await told(follower) for _ in range(2)] == [request(0), request(1)]
    await small.close()


async def test_a_malformed_entry_of_a_journal_is_passed_over(bus: Bus) -> None:
    assert isinstance(bus, MemoryBus | RedisBus)
    await bus.record("journal", request(0))
    await bus.record_bytes("journal", b"no message")
    await bus.record("journal", request(1))
    async with bus.follow("journal") as follower:
        assert [await told(follower) for _ in range(2)] == [request(0), request(1)]
        assert follower.is_current


async def test_a_reader_that_gives_up_waiting_misses_nothing(bus: Bus) -> None:
    async with bus.follow("journal") as follower:
        for number in range(5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(follower.next(), 0.01)
            await bus.record("journal", request(number))
            assert await told(follower) == request(number)


# Two topics by their rank.

LOW = Topic("later", RecommendRequest, "workers")


async def take(subscription: Subscription[RecommendRequest], count: int) -> list[str]:
    """Takes and acknowledges; what came, in order."""
    taken = []
    for _ in range(count):
        delivery = await soon(subscription)
        taken.append(delivery.message.request_id)
        await delivery.ack()
    return taken


async def test_what_is_low_comes_after_the_other_but_for_its_turn(bus: Bus) -> None:
    for number in range(3):
        await bus.publish(LOW, request(number))
    for number in range(100, 100 + 2 * LOW_TURN):
        await bus.publish(TOPIC, request(number))
    async with bus.subscribe(TOPIC, LOW) as subscription:
        taken = await take(subscription, 2 * LOW_TURN + 3)
    assert [place for place, name in enumerate(taken, 1) if int(name) < 100] == [
        LOW_TURN,
        2 * LOW_TURN,
        2 * LOW_TURN + 3,
    ]
    high = [int(name) for name in taken if int(name) >= 100]
    assert high == sorted(high)
    assert await stored(bus) == await bus.lag(LOW) == 0


async def test_what_is_low_is_taken_at_once_when_there_is_nothing_else(bus: Bus) -> None:
    async with bus.subscribe(TOPIC, LOW) as subscription:
        for topic, number in ((LOW, 1), (TOPIC, 2), (LOW, 3), (LOW, 4)):
            waiting = asyncio.create_task(subscription.next())
            await asyncio.sleep(0)
            await bus.publish(topic, request(number))
            delivery = await asyncio.wait_for(waiting, 5)
            assert (delivery.message, delivery.topic) == (request(number), topic.name)
            assert delivery.num_deliveries == 1
            await delivery.ack()


async def test_of_two_topics_too_nothing_is_fetched_ahead_of_demand(bus: Bus) -> None:
    for number in range(3):
        await bus.publish(TOPIC, request(number))
        await bus.publish(LOW, request(number))
    async with bus.subscribe(TOPIC, LOW) as subscription:
        await soon(subscription)
        assert (await bus.lag(TOPIC), await bus.lag(LOW)) == (2, 3)


@pytest.mark.parametrize("topic", [TOPIC, LOW], ids=["high", "low"])
async def test_a_dead_consumers_messages_of_both_topics_are_taken_over(
    bus: Bus, other: Bus, topic: Topic[RecommendRequest]
) -> None:
    await bus.publish(topic, request(1))
    async with bus.subscribe(TOPIC, LOW) as subscription:
        assert (await soon(subscription)).message == request(1)
    async with other.subscribe(TOPIC, LOW) as subscription:
        delivery = await soon(subscription)
        assert (delivery.message, delivery.num_deliveries) == (request(1), 2)
        await delivery.ack()
    assert await bus.lag(topic) == 0


async def test_leases_of_both_topics_are_kept(bus: Bus, other: Bus, bus_config: BusConfig) -> None:
    for topic in (TOPIC, LOW):
        await bus.publish(topic, request(1))
    async with bus.subscribe(TOPIC, LOW) as one, other.subscribe(TOPIC, LOW) as two:
        held = [await soon(one), await soon(one)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(two.next(), 3 * bus_config.delivery_lease_s)
        for delivery in held:
            assert not delivery.lost.is_set()
            await delivery.ack()


async def test_dead_letters_lie_beside_the_topic_that_they_came_from(bus: Bus) -> None:
    for number, topic in enumerate((TOPIC, LOW)):
        await bus.publish(topic, request(number))
    async with bus.subscribe(TOPIC, LOW) as subscription:
        for _ in range(2):
            delivery = await soon(subscription)
            await delivery.bury("no use")
            await delivery.ack()
    letters = {letter.topic: letter.data async for letter in bus.dead_letters()}
    assert letters == {TOPIC.name: encode(request(0)), LOW.name: encode(request(1))}


async def test_one_who_reads_one_topic_and_one_who_reads_both_share_it(
    bus: Bus, other: Bus
) -> None:
    """As older and newer builds do, side by side."""
    async with bus.subscribe(TOPIC) as old, other.subscribe(TOPIC, LOW) as new:
        await bus.publish(LOW, request(0))
        assert await take(new, 1) == ["0"]
        for number in range(1, 5):
            await bus.publish(TOPIC, request(number))
        taken = [*await take(old, 2), *await take(new, 2)]
        assert taken == ["1", "2", "3", "4"]


async def test_what_comes_on_both_topics_at_once_is_handed_out_once_each(
    bus: Bus, other: Bus
) -> None:
    """Where a server hands over both, one of them goes back, and is there for the next call."""
    async with bus.subscribe(TOPIC, LOW) as subscription:
        for number in range(30):
            waiting = asyncio.create_task(subscription.next())
            await asyncio.gather(
                bus.publish(LOW, request(number)), other.publish(TOPIC, request(100 + number))
            )
            first = await asyncio.wait_for(waiting, 5)
            second = await soon(subscription)
            got = {d.message.request_id for d in (first, second)}
            assert got == {str(number), str(100 + number)}
            assert first.num_deliveries == second.num_deliveries == 1
            await first.ack()
            await second.ack()
    assert await stored(bus) == await bus.lag(LOW) == 0


async def test_what_a_server_hands_over_beside_something_else_goes_back_at_once(
    bus: Bus, other: Bus
) -> None:
    """The read of one that waits finds both filled, since they were empty a moment ago."""
    if not isinstance(bus, RedisBus):
        pytest.skip("only a server hands over two")
    async with bus.subscribe(TOPIC, LOW) as subscription, other.subscribe(TOPIC, LOW) as second:
        assert isinstance(subscription, RedisSubscription)
        for place in subscription._places:
            await place.create_group()
        for topic in (LOW, TOPIC):
            await bus.publish(topic, request(1))
        came = await subscription._new(subscription._places, 100)
        assert came is not None
        assert came[0].topic == TOPIC
        delivery = await soon(second)
        assert (delivery.topic, delivery.num_deliveries) == (LOW.name, 1)
        await delivery.ack()
        await came[0].forget(came[1].entry)
