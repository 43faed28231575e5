"""The face that every service has: run until drained, announce itself, consume and answer.

A service knows its config, its bus and its work. It does not know how it was started, the
environment, or signals; that is the runner's.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from shared.bus.base import Bus, Delivery, Instance
from shared.config import BusConfig
from shared.errors import BusError, InvalidRequestError, MessageError, QuorumError
from shared.log import request_scope
from shared.messages import Cancelled, Failed, Finished, Scores
from shared.registry import Registry
from shared.tensor_messages import Outputs, Written
from shared.topics import Topic
from shared.tracing import OFF, Recorder, Span, Tracer, Value, resume

logger = logging.getLogger(__name__)

Terminal = Finished | Failed | Cancelled | Scores | Outputs | Written


class Request(Protocol):
    """What a durable request must carry to be answered."""

    @property
    def request_id(self) -> str: ...
    @property
    def reply_to(self) -> str: ...
    @property
    def deadline(self) -> float: ...


R = TypeVar("R", bound=Request)
T = TypeVar("T")


class Service(ABC):
    """Construction connects nothing; `run` does. `role` groups instances, `name` tells which model
    or part they hold."""

    def __init__(self, role: str, name: str, bus: Bus, bus_config: BusConfig) -> None:
        self.role = role
        self.name = name
        self.bus = bus
        self.bus_config = bus_config
        self.instance_id = f"{role}.{name}.{uuid.uuid4().hex[:12]}"
        self.registry = Registry(bus, bus_config.lease_s)
        self.tracer: Tracer = OFF
        self.ready = asyncio.Event()
        self.draining = asyncio.Event()

    def trace_with(self, recorder: Recorder) -> None:
        """Called by who runs the service, before it does."""
        self.tracer = recorder.tracer(self.role, self.instance_id)

    def members(self) -> Sequence[Service]:
        """The services that this one is made of: itself."""
        return [self]

    async def run(self) -> None:
        """Serves until `drain` was called and all taken work is done, or until cancelled."""
        await self.load()
        renewal = asyncio.create_task(self.registry.run())
        try:
            await self.serve()
        finally:
            renewal.cancel()
            await self._leave()

    async def load(self) -> None:  # noqa: B027 - most services have nothing to load
        """Reads models and the like, before the instance is visible to others."""

    @abstractmethod
    async def serve(self) -> None:
        """Announces, sets `ready`, works until `draining` is set, finishes what it has."""

    def drain(self) -> None:
        """Asks for no new work; `run` returns when the work at hand is done."""
        self.draining.set()

    async def retire(self) -> None:
        """Drains for good: nobody else does its work."""
        self.drain()

    async def announce(self, attributes: Mapping[str, str]) -> None:
        """Becomes visible in the registry, reading the inbox of its own id."""
        await self.registry.announce(
            Instance(self.instance_id, self.role, self.name, self.instance_id, dict(attributes))
        )
        self.ready.set()

    @asynccontextmanager
    async def inbox(self, handle: Callable[[object], Awaitable[None]]) -> AsyncIterator[None]:
        """While entered, hands each inbox message to `handle`, one after the other. To be entered
        before others hear of the instance: mail for an inbox that is not there is dropped."""
        async with self.bus.receive(self.instance_id) as messages:

            async def read() -> None:
                async for message in messages:
                    await handle(message)

            async with background(read()):
                yield

    async def consume(
        self,
        topic: Topic[R],
        handle: Callable[[R], Awaitable[Terminal]],
        max_in_flight: int,
        low: Topic[R] | None = None,
    ) -> None:
        """Takes requests while fewer than `max_in_flight` are in work, those of the topic before
        those of `low`; sends each one's terminal message, which acknowledges it. Returns when
        draining and nothing is in work."""
        room = asyncio.Semaphore(max_in_flight)
        drain = asyncio.ensure_future(self.draining.wait())
        try:
            async with self.bus.subscribe(topic, low) as inbound, asyncio.TaskGroup() as work:
                while True:
                    if not room.locked():  # as mostly, and then nobody has to be waited for
                        await room.acquire()
                    elif not await _before(drain, room.acquire()):
                        break
                    delivery = await _before(drain, inbound.next())
                    if delivery is None:
                        break
                    task = work.create_task(self._answer(delivery, handle))
                    task.add_done_callback(lambda _: room.release())
        finally:
            drain.cancel()

    async def _answer(
        self, delivery: Delivery[R], handle: Callable[[R], Awaitable[Terminal]]
    ) -> None:
        """One request from delivery to acknowledgement."""
        request = delivery.message
        resume(delivery.trace)
        with (
            request_scope(request.request_id),
            self.tracer.span(f"process {delivery.topic}") as span,
        ):
            try:
                if span:
                    self._tell(delivery, span)
                reply = await self._terminal(delivery, handle)
                if reply is None:
                    logger.warning("lease lost, another consumer has the request")
                    return
                if isinstance(reply, Failed):
                    span.fail(reply.code)
                if not await self._send(delivery, reply):
                    logger.warning("lease lost, another consumer answers")
            except BusError as error:
                logger.error("unanswered, to be delivered again: %s", error)
                await self._hand_back(delivery)
            except asyncio.CancelledError:
                await self._hand_back(delivery)
                raise

    def _tell(self, delivery: Delivery[R], span: Span) -> None:
        """Tells what is processed; the time that it waited is a span of its own."""
        told: dict[str, Value] = {
            "messaging.destination.name": delivery.topic,
            "messaging.message.id": delivery.message.request_id,
        }
        now = time.perf_counter()
        waiting = {**told, "messaging.operation.type": "receive"}
        self.tracer.record(f"queue {delivery.topic}", span, now - delivery.waited_s, now, waiting)
        span.set(
            {
                **told,
                "messaging.operation.type": "process",
                "quorum.num_deliveries": delivery.num_deliveries,
            }
        )

    async def _send(self, delivery: Delivery[R], reply: Terminal) -> bool:
        """An answer that the wire cannot carry becomes a failure, which it can."""
        request = delivery.message
        try:
            return await delivery.answer(request.reply_to, reply)
        except MessageError as error:
            logger.error("the answer cannot be sent: %s", error)
            message = f"the answer cannot be sent: {error}"
            return await delivery.answer(
                request.reply_to, Failed(request.request_id, error.code, message)
            )

    async def _hand_back(self, delivery: Delivery[R]) -> None:
        try:
            await delivery.hand_back()
        except BusError as error:
            logger.warning("not handed back, the lease will end: %s", error)

    async def _terminal(
        self, delivery: Delivery[R], handle: Callable[[R], Awaitable[Terminal]]
    ) -> Terminal | None:
        request = delivery.message
        if delivery.num_deliveries > self.bus_config.max_deliveries:
            reason = f"given up after {delivery.num_deliveries - 1} deliveries"
            await delivery.bury(reason)
            return Failed(request.request_id, "undeliverable", reason)
        if request.deadline < self.bus.now():
            return Failed(request.request_id, "deadline_exceeded", "expired before it was served")
        work = asyncio.ensure_future(handle(request))
        lost = asyncio.ensure_future(delivery.lost.wait())
        try:
            await asyncio.wait([work, lost], return_when=asyncio.FIRST_COMPLETED)
            return await work if work.done() else None
        except BusError:
            raise
        except InvalidRequestError as error:
            return Failed(request.request_id, error.code, str(error), error.param)
        except QuorumError as error:
            return Failed(request.request_id, error.code, str(error))
        except Exception:
            logger.exception("request failed by a fault of ours")
            return Failed(request.request_id, "internal_error", "an internal error; see the logs")
        finally:
            lost.cancel()
            work.cancel()
            await asyncio.wait([work, lost])

    async def _leave(self) -> None:
        try:
            await self.registry.withdraw(self.instance_id)
        except BusError as error:
            logger.warning("not withdrawn, the lease will end: %s", error)


async def _before(end: asyncio.Future[Any], operation: Awaitable[T]) -> T | None:
    """The operation's result, or None as soon as the end has come."""
    wanted: asyncio.Future[Any] = asyncio.ensure_future(operation)
    try:
        await asyncio.wait([wanted, end], return_when=asyncio.FIRST_COMPLETED)
        return wanted.result() if wanted.done() else None
    finally:
        if not wanted.done():
            wanted.cancel()
            await asyncio.wait([wanted])


@asynccontextmanager
async def background(*coroutines: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Runs the coroutines beside the body and cancels them after it; the first of them to fail
    cancels the body and is raised in its place."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
            yield
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as failures:
        first: BaseException = failures
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from failures
