"""The autoscaler: looks at every service in turn, and adds or removes replicas.

The rule decides (rule.py), the fleet acts (fleet.py). Of several autoscalers of a project the first
by id acts; the others look on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp

from deploy.autoscaler import metrics
from deploy.autoscaler.config import AutoscalerConfig
from deploy.autoscaler.fleet import Container, Fleet
from deploy.autoscaler.readings import TIMEOUT, Meter, Reading, read
from deploy.autoscaler.rule import Controller, Sample
from shared.bus.base import Backlog, Bus
from shared.config import BusConfig
from shared.errors import QuorumError
from shared.runner import Part
from shared.service import Service
from shared.topics import (
    Topic,
    batch_generate_requests,
    generate_requests,
    recommend_requests,
    score_requests,
)

logger = logging.getLogger(__name__)

TOPICS: Mapping[str, Sequence[Callable[[str], Topic[Any]]]] = {
    "verifier": [generate_requests, batch_generate_requests],
    "recommender": [recommend_requests, score_requests],
}
"""By the role that reads them; other roles are sent their work directly."""


class AutoscalerService(Service):
    """Scales one docker compose project."""

    def __init__(self, config: AutoscalerConfig, bus: Bus, bus_config: BusConfig) -> None:
        super().__init__("autoscaler", config.project, bus, bus_config)
        self._config = config
        self._fleet = Fleet(config.docker_url, config.project)
        self._controllers = {s: Controller(rule) for s, rule in config.rules().items()}
        self._meter = Meter()
        self._topics: dict[str, set[Topic[Any]]] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        """Containers on their way out, which count no more."""

    async def load(self) -> None:
        """Finds Docker."""
        await asyncio.to_thread(self._fleet.connect)

    async def serve(self) -> None:
        """Looks again and again until drained; containers that leave are waited for."""
        try:
            async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
                await self.announce({"dry_run": str(self._config.dry_run)})
                while not self.draining.is_set():
                    await self._look(session)
                    await self._pause()
            if self._leaving:
                await asyncio.wait(self._leaving.values())
        finally:
            self._fleet.close()

    async def _pause(self) -> None:
        drained = asyncio.ensure_future(self.draining.wait())
        await asyncio.wait([drained], timeout=self._config.interval_s)
        drained.cancel()

    async def _look(self, session: aiohttp.ClientSession) -> None:
        """One look at all services."""
        try:
            found = await asyncio.to_thread(self._fleet.containers, self._controllers)
        except QuorumError as error:
            logger.warning("nothing seen: %s", error)
            metrics.FAILURES.labels("").inc()
            return
        self._meter.keep({c.id for containers in found.values() for c in containers})
        await asyncio.gather(*(self._tend(session, s, each) for s, each in found.items()))

    async def _tend(
        self, session: aiohttp.ClientSession, service: str, containers: Sequence[Container]
    ) -> None:
        """Looks at one service and does what the rule says. One that was stopped is left alone."""
        staying = [c for c in containers if c.id not in self._leaving]
        metrics.REPLICAS.labels(service).set(len(staying))
        if not staying:
            return
        try:
            sample = await self._sample(session, service, staying)
            wanted = self._controllers[service].wanted(sample)
            metrics.WANTED.labels(service).set(wanted)
            if wanted != len(staying):
                await self._change(service, staying, wanted, sample)
        except QuorumError as error:
            logger.warning("%s: %s", service, error)
            metrics.FAILURES.labels(service).inc()

    async def _sample(
        self, session: aiohttp.ClientSession, service: str, containers: Sequence[Container]
    ) -> Sample:
        readings = await asyncio.gather(*(read(session, c.address) for c in containers))
        at = asyncio.get_running_loop().time()
        utilisations = []
        for container, reading in zip(containers, readings, strict=True):
            if reading is not None:
                share = self._meter.utilisation(container.id, reading, at, container.cpus)
                utilisations += [] if share is None else [share]
        backlog = await self._backlog(service, [r for r in readings if r is not None])
        sample = Sample(at, len(containers), utilisations, backlog.age_s)
        metrics.UTILISATION.labels(service).set(sample.load / max(1, len(utilisations)))
        metrics.SILENT.labels(service).set(len(containers) - len(utilisations))
        metrics.BACKLOG.labels(service).set(backlog.num_messages)
        metrics.QUEUE_AGE.labels(service).set(backlog.age_s)
        return sample

    async def _backlog(self, service: str, readings: Sequence[Reading]) -> Backlog:
        """What waits in the topics that the service's instances read. They are remembered: where
        all replicas are too busy to answer, the queue still tells."""
        ids = [id_ for reading in readings for id_ in reading.instance_ids]
        instances = [i for id_ in ids if (i := self.registry.find(id_)) is not None]
        topics = {topic(i.name) for i in instances for topic in TOPICS.get(i.role, ())}
        if topics:
            self._topics[service] = topics
        waiting = [await self.bus.backlog(topic) for topic in self._topics.get(service, ())]
        return Backlog(
            sum(b.num_messages for b in waiting), max((b.age_s for b in waiting), default=0.0)
        )

    async def _change(
        self, service: str, containers: Sequence[Container], wanted: int, sample: Sample
    ) -> None:
        if not self._acts_for_all():
            return
        count = len(containers)
        metrics.CHANGES.labels(service, "more" if wanted > count else "fewer").inc()
        logger.info(
            "%s: %d%s instead of %d (%.2f busy, oldest message %.1f s)",
            service,
            wanted,
            " wanted" if self._config.dry_run else "",
            count,
            sample.load,
            sample.queue_age_s,
        )
        if self._config.dry_run:
            return
        for _ in range(wanted - count):
            name = await asyncio.to_thread(self._fleet.add, service, containers[-1])
            logger.info("%s started", name)
        for container in containers[wanted:]:
            self._leaving[container.id] = asyncio.create_task(self._remove(service, container))

    async def _remove(self, service: str, container: Container) -> None:
        try:
            await asyncio.to_thread(self._fleet.remove, container)
            logger.info("%s removed", container.name)
        except QuorumError as error:
            logger.warning("%s is not removed: %s", container.name, error)
            metrics.FAILURES.labels(service).inc()
        finally:
            del self._leaving[container.id]

    def _acts_for_all(self) -> bool:
        first = next(iter(self.registry.live(self.role, self.name)), None)
        return first is not None and first.instance_id == self.instance_id


def build(config: AutoscalerConfig, bus: Bus, bus_config: BusConfig) -> list[Service]:
    """One autoscaler."""
    return [AutoscalerService(config, bus, bus_config)]


PART = Part("autoscaler", AutoscalerConfig, build)
