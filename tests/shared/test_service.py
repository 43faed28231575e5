"""What every service does with requests: over the bus within the process, with real deliveries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from shared.bus.memory import MemoryBus
from shared.codec import MAX_MESSAGE_BYTES, decode
from shared.config import BusConfig
from shared.errors import BusError, InvalidRequestError, ModelError
from shared.messages import Failed, RecommendRequest, Scores
from shared.service import Service, Terminal, background
from shared.topics import Topic

TOPIC = Topic("work", RecommendRequest, "workers")
CONFIG = BusConfig(delivery_lease_s=0.3, max_deliveries=3)
Handler = Callable[[RecommendRequest], Awaitable[Terminal]]


def scores(request: RecommendRequest) -> Scores:
    return Scores(request.request_id, ["a"], [1.0], 0, "1")


class Worker(Service):
    """Answers each request by a function."""

    def __init__(self, bus: MemoryBus, handle: Handler, max_in_flight: int = 4) -> None:
        super().__init__("worker", "test", bus, CONFIG)
        self._handle = handle
        self._max_in_flight = max_in_flight

    async def serve(self) -> None:
        await self.announce({})
        await self.consume(TOPIC, self._handle, self._max_in_flight)


class Bench:
    """A bus, a client's inbox on it, and the running workers."""

    def __init__(self, bus: MemoryBus, replies: AsyncIterator[object]) -> None:
        self.bus = bus
        self.replies = replies
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, handle: Handler, max_in_flight: int = 4) -> tuple[Worker, asyncio.Task[None]]:
        worker = Worker(self.bus, handle, max_in_flight)
        task = asyncio.create_task(worker.run())
        self.tasks.append(task)
        return worker, task

    async def submit(self, *request_ids: str, timeout_s: float = 60.0) -> None:
        for request_id in request_ids:
            await self.bus.publish(
                TOPIC,
                RecommendRequest(request_id, "client", {}, None, 1, time.time() + timeout_s),
            )

    async def reply(self) -> object:
        return await asyncio.wait_for(anext(self.replies), 10)

    async def acknowledged(self) -> None:
        """Waits until the topic holds nothing."""
        async with asyncio.timeout(10):
            while self.bus.log(TOPIC.name).entries:  # noqa: ASYNC110 - a log tells nobody
                await asyncio.sleep(0)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bus = MemoryBus(CONFIG)
    async with bus.receive("client") as replies:
        bench = Bench(bus, replies)
        yield bench
        for task in bench.tasks:
            task.cancel()
        await asyncio.gather(*bench.tasks, return_exceptions=True)


class Gate:
    """A handler that reports each start and waits to be let on."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[str] = asyncio.Queue()
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()
        self.open = asyncio.Event()

    async def __call__(self, request: RecommendRequest) -> Scores:
        self.started.put_nowait(request.request_id)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.put_nowait(request.request_id)
            raise
        return scores(request)

    async def next_started(self) -> str:
        return await asyncio.wait_for(self.started.get(), 10)


async def settle() -> None:
    """Lets everything that can run now, run."""
    for _ in range(50):
        await asyncio.sleep(0)


async def answer(request: RecommendRequest) -> Scores:
    return scores(request)


async def test_a_request_is_answered_and_acknowledged(bench: Bench) -> None:
    bench.start(answer)
    await bench.submit("1")
    assert await bench.reply() == Scores("1", ["a"], [1.0], 0, "1")
    await bench.acknowledged()


async def test_the_acknowledgement_comes_after_the_reply_was_sent() -> None:
    events: list[str] = []

    class WatchedBus(MemoryBus):
        def send_bytes(self, inbox: str, data: bytes) -> None:
            super().send_bytes(inbox, data)
            assert isinstance(decode(data), Scores)
            events.append(f"sent, {len(self.log(TOPIC.name).entries)} unacknowledged")

    bus = WatchedBus(CONFIG)
    async with bus.receive("client") as replies:
        bench = Bench(bus, replies)
        _, task = bench.start(answer)
        await bench.submit("1")
        await bench.reply()
        await bench.acknowledged()
        assert events == ["sent, 1 unacknowledged"]
        task.cancel()
        await asyncio.wait([task])


async def test_no_more_than_the_bound_is_in_work(bench: Bench) -> None:
    gate = Gate()
    bench.start(gate, max_in_flight=2)
    await bench.submit("1", "2", "3", "4")
    assert {await gate.next_started(), await gate.next_started()} == {"1", "2"}
    await settle()
    assert gate.started.empty()
    assert await bench.bus.lag(TOPIC) == 2, "others may take what this one has no room for"
    gate.open.set()
    assert {(await bench.reply()).request_id for _ in range(4)} == set("1234")  # type: ignore[attr-defined]
    await bench.acknowledged()


async def test_a_fault_of_ours_fails_the_request_without_details(bench: Bench) -> None:
    async def fail(request: RecommendRequest) -> Scores:
        raise ZeroDivisionError("secret details")

    worker, _ = bench.start(fail)
    await bench.submit("1")
    failed = await bench.reply()
    assert isinstance(failed, Failed)
    assert (failed.request_id, failed.code, failed.param) == ("1", "internal_error", None)
    assert "secret" not in failed.message
    assert "ZeroDivision" not in failed.message
    await bench.acknowledged()
    assert worker.ready.is_set()
    await bench.submit("2")
    assert isinstance(await bench.reply(), Failed), "the service goes on"


async def test_a_wrong_input_fails_the_request_and_names_the_field(bench: Bench) -> None:
    async def refuse(request: RecommendRequest) -> Scores:
        raise InvalidRequestError("k is 0; at least 1", "k")

    bench.start(refuse)
    await bench.submit("1")
    assert await bench.reply() == Failed("1", "invalid_request", "k is 0; at least 1", "k")
    await bench.acknowledged()


async def test_an_error_of_ours_fails_the_request_with_its_code(bench: Bench) -> None:
    async def refuse(request: RecommendRequest) -> Scores:
        raise ModelError("the graph refused")

    bench.start(refuse)
    await bench.submit("1")
    assert await bench.reply() == Failed("1", "model_error", "the graph refused")
    await bench.acknowledged()


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("x" * MAX_MESSAGE_BYTES, "message_too_large", f"the limit is {MAX_MESSAGE_BYTES}"),
        ("\ud800", "malformed_message", "cannot be encoded"),
    ],
)
async def test_an_answer_that_the_wire_cannot_carry_fails_its_request_alone(
    bench: Bench, name: str, code: str, words: str
) -> None:
    async def answer_at_length(request: RecommendRequest) -> Scores:
        names = {"1": name}
        return Scores(request.request_id, [names.get(request.request_id, "a")], [1.0], 0, "1")

    bench.start(answer_at_length)
    await bench.submit("1", "2")
    failed, sound = await bench.reply(), await bench.reply()
    assert isinstance(failed, Failed)
    assert (failed.request_id, failed.code) == ("1", code)
    assert words in failed.message
    assert isinstance(sound, Scores)
    await bench.acknowledged()


async def test_a_request_past_its_deadline_is_never_run(bench: Bench) -> None:
    gate = Gate()
    gate.open.set()
    bench.start(gate)
    await bench.submit("late", timeout_s=-1.0)
    failed = await bench.reply()
    assert isinstance(failed, Failed)
    assert (failed.request_id, failed.code) == ("late", "deadline_exceeded")
    await bench.acknowledged()
    assert gate.started.empty()


async def test_a_request_that_kills_its_consumers_becomes_a_dead_letter(bench: Bench) -> None:
    await bench.submit("poison")
    for _ in range(CONFIG.max_deliveries):
        async with bench.bus.subscribe(TOPIC) as subscription:
            await asyncio.wait_for(subscription.next(), 5)
    gate = Gate()
    bench.start(gate)
    failed = await bench.reply()
    assert isinstance(failed, Failed)
    assert (failed.request_id, failed.code) == ("poison", "undeliverable")
    assert failed.message == f"given up after {CONFIG.max_deliveries} deliveries"
    await bench.acknowledged()
    (letter,) = bench.bus.log(TOPIC.name).dead
    assert letter.reason == failed.message
    assert gate.started.empty()


async def test_the_last_delivery_allowed_is_served(bench: Bench) -> None:
    await bench.submit("1")
    for _ in range(CONFIG.max_deliveries - 1):
        async with bench.bus.subscribe(TOPIC) as subscription:
            await asyncio.wait_for(subscription.next(), 5)
    bench.start(answer)
    assert isinstance(await bench.reply(), Scores)


async def test_a_lost_lease_cancels_the_work_and_sends_nothing(bench: Bench) -> None:
    gate = Gate()
    bench.start(gate, max_in_flight=1)
    await bench.submit("1")
    await gate.next_started()
    # As after a pause of this process: the lease is over before it could be renewed.
    log = bench.bus.log(TOPIC.name)
    async with bench.bus.subscribe(TOPIC) as other:
        (pending,) = log.pending.values()
        pending.expires = 0.0
        delivery = await asyncio.wait_for(other.next(), 5)
        assert delivery.num_deliveries == 2
        assert await asyncio.wait_for(gate.cancelled.get(), 5) == "1"
        gate.open.set()
        await delivery.ack()
    await bench.submit("2")
    assert await bench.reply() == Scores("2", ["a"], [1.0], 0, "1"), "no reply for 1 came before"


async def test_a_cancelled_service_hands_its_work_back(bench: Bench) -> None:
    gate = Gate()
    _, task = bench.start(gate)
    await bench.submit("1")
    await gate.next_started()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert gate.cancelled.get_nowait() == "1"
    async with bench.bus.subscribe(TOPIC) as other:
        delivery = await asyncio.wait_for(other.next(), 5)
    assert delivery.num_deliveries == 1, "a hand-over is no failed delivery"


async def test_what_the_bus_kept_from_an_answer_is_delivered_again(bench: Bench) -> None:
    num_tries = 0

    async def fail_once(request: RecommendRequest) -> Scores:
        nonlocal num_tries
        num_tries += 1
        if num_tries == 1:
            raise BusError("away for a while")
        return scores(request)

    bench.start(fail_once)
    await bench.submit("1")
    assert isinstance(await bench.reply(), Scores)
    await bench.acknowledged()
    assert num_tries == 2


async def test_a_drain_finishes_the_work_at_hand_and_takes_nothing_new(bench: Bench) -> None:
    gate = Gate()
    worker, task = bench.start(gate)
    await bench.submit("1", "2")
    await gate.next_started()
    await gate.next_started()
    worker.drain()
    await settle()
    await bench.submit("3")
    await settle()
    assert not task.done()
    assert gate.started.empty()
    gate.open.set()
    await asyncio.wait_for(task, 10)
    replies = [await bench.reply(), await bench.reply()]
    assert {reply.request_id for reply in replies} == {"1", "2"}  # type: ignore[attr-defined]
    assert await bench.bus.lag(TOPIC) == 1, "the third is another's"
    assert len(bench.bus.log(TOPIC.name).entries) == 1


async def test_a_drain_ends_a_service_that_waits_for_room(bench: Bench) -> None:
    gate = Gate()
    worker, task = bench.start(gate, max_in_flight=1)
    await bench.submit("1", "2")
    await gate.next_started()
    await settle()
    worker.drain()
    await settle()
    gate.open.set()
    await asyncio.wait_for(task, 10)
    assert gate.started.empty()


async def test_a_service_is_visible_once_ready_and_gone_after_a_drain(bench: Bench) -> None:
    worker, task = bench.start(answer)
    await asyncio.wait_for(worker.ready.wait(), 5)
    (instance,) = await bench.bus.announce([], 1.0)
    assert (instance.instance_id, instance.role) == (worker.instance_id, "worker")
    worker.drain()
    await asyncio.wait_for(task, 5)
    assert await bench.bus.announce([], 1.0) == []


async def test_background_runs_beside_the_body_and_ends_with_it() -> None:
    running, ended = asyncio.Event(), asyncio.Event()

    async def beside() -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with background(beside()):
        await asyncio.wait_for(running.wait(), 5)
        assert not ended.is_set()
    assert ended.is_set()


async def test_the_first_failure_in_the_background_cancels_the_body_and_is_raised() -> None:
    cancelled = []

    async def fail() -> None:
        raise BusError("the cause")

    async def beside() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append("beside")
            raise

    async def body() -> None:
        async with background(beside(), fail()):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append("body")
                raise

    with pytest.raises(BusError, match="the cause"):
        await body()
    assert sorted(cancelled) == ["beside", "body"]


async def test_a_failure_of_the_body_ends_the_background_and_is_raised() -> None:
    with pytest.raises(ModelError, match="the body's"):
        async with background(asyncio.Event().wait()):  # type: ignore[arg-type]
            raise ModelError("the body's")


async def test_cancelling_the_body_cancels_the_background() -> None:
    entered, ended = asyncio.Event(), asyncio.Event()

    async def beside() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def body() -> None:
        async with background(beside()):
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await asyncio.wait_for(entered.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_two_topics_share_one_bound_and_the_low_one_comes_after(bench: Bench) -> None:
    low = Topic("later", RecommendRequest, "workers")
    gate = Gate()

    class Ranked(Worker):
        async def serve(self) -> None:
            await self.announce({})
            await self.consume(TOPIC, gate, 2, low=low)

    for name in ("a", "b"):
        request = RecommendRequest(name, "client", {}, None, 1, time.time() + 60)
        await bench.bus.publish(low, request)
    await bench.submit("1", "2", "3")
    task = asyncio.create_task(Ranked(bench.bus, gate).run())
    bench.tasks.append(task)
    assert {await gate.next_started(), await gate.next_started()} == {"1", "2"}
    await settle()
    assert gate.started.empty()
    assert (await bench.bus.lag(TOPIC), await bench.bus.lag(low)) == (1, 2)
    gate.open.set()
    assert {(await bench.reply()).request_id for _ in range(5)} == set("123ab")  # type: ignore[attr-defined]
    assert [await gate.next_started() for _ in range(3)] == ["3", "a", "b"]
