"""A service that runs others: one for each thing that is wanted, which may change at any time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from shared.bus.base import Bus
from shared.config import BusConfig
from shared.errors import BusError, ModelError, QuorumError
from shared.log import Complaint
from shared.served import POLL_S
from shared.service import Service
from shared.tracing import Recorder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    """What a service is for: its name, and what else of it asks for a new one when it changes."""

    name: str
    content: object = None


Wanted = Mapping[Key, Callable[[], Service]]


@dataclass(frozen=True, slots=True)
class _Hosted:
    service: Service
    task: asyncio.Task[None]


class Host(Service):
    """Looks every `POLL_S` at what is wanted. What cannot be loaded is told once and left out; at
    the start it is an error. What has changed is drained before its successor is loaded."""

    def __init__(
        self,
        role: str,
        name: str,
        bus: Bus,
        bus_config: BusConfig,
        wanted: Callable[[], Wanted],
    ) -> None:
        """`wanted` may block, and raises ModelError."""
        super().__init__(role, name, bus, bus_config)
        self._wanted = wanted
        self._hosted: dict[Key, _Hosted] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        """By the names of services that are to end."""
        self._refused: set[Key] = set()
        self._complaint = Complaint(logger, "what is served stays as it was")
        self._recorder = Recorder()

    def trace_with(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def members(self) -> Sequence[Service]:
        return [hosted.service for hosted in self._hosted.values()]

    async def serve(self) -> None:
        """Works until drained, or until one of those that it runs has ended by itself."""
        try:
            for key, make in (await asyncio.to_thread(self._wanted)).items():
                await self._start(key, make)
            self.ready.set()
            while not await self._is_drained():
                await self._look()
            for hosted in self._hosted.values():
                hosted.service.drain()
            await asyncio.gather(*(h.task for h in self._hosted.values()), *self._ending.values())
        finally:
            tasks = [*(hosted.task for hosted in self._hosted.values()), *self._ending.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _is_drained(self) -> bool:
        """Whether it is to drain, after a while. Raises what one of the services has ended by."""
        drained = asyncio.ensure_future(self.draining.wait())
        running = {hosted.task: hosted.service for hosted in self._hosted.values()}
        await asyncio.wait([drained, *running], timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        for task, service in running.items():
            if task.done() and not service.draining.is_set():
                task.result()
                raise RuntimeError(f"{service.instance_id} ended without being asked to")
        return self.draining.is_set()

    async def _look(self) -> None:
        try:
            wanted = await asyncio.to_thread(self._wanted)
        except ModelError as error:
            self._complaint.about(error)
            return
        self._complaint.over()
        self._refused &= wanted.keys()
        names = {key.name for key in wanted}
        for key in self._hosted.keys() - wanted.keys():
            hosted = self._hosted.pop(key)
            ending = self._end(key.name, hosted.service, hosted.task, key.name in names)
            self._ending[key.name] = asyncio.create_task(ending)
        for key, make in wanted.items():
            if key in self._hosted or key in self._refused or key.name in self._ending:
                continue
            try:
                await self._start(key, make)
            except BusError as error:
                logger.warning("%s is not loaded yet: %s", key.name, error)
            except QuorumError as error:
                logger.error("%s is not served: %s", key.name, error)
                self._refused.add(key)

    async def _start(self, key: Key, make: Callable[[], Service]) -> None:
        """Returns when it is ready; raises what it failed by."""
        service = make()
        service.trace_with(self._recorder)
        task = asyncio.create_task(service.run())
        self._hosted[key] = _Hosted(service, task)
        ready = asyncio.ensure_future(service.ready.wait())
        try:
            await asyncio.wait([ready, task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if not service.ready.is_set():
            del self._hosted[key]
            task.result()
            raise RuntimeError(f"{service.instance_id} ended without being asked to")
        logger.info("%s serves %s", self.role, key.name)

    async def _end(
        self, name: str, service: Service, task: asyncio.Task[None], is_replaced: bool
    ) -> None:
        try:
            if is_replaced:
                service.drain()
            else:
                await service.retire()
            await task
            logger.info("%s serves %s no more", self.role, name)
        except Exception:  # it is gone either way, and the others go on
            logger.exception("%s ended badly", service.instance_id)
        finally:
            task.cancel()
            del self._ending[name]
