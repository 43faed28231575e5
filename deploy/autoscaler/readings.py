"""What replicas tell of themselves over HTTP, and how busy that shows them to be."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

MONITOR_PORT = 9100
"""As deploy/Dockerfile sets it."""
TIMEOUT = aiohttp.ClientTimeout(total=2.0)
RUNNING, CAPACITY, CPU = (
    "num_requests_running",
    "num_requests_capacity",
    "process_cpu_seconds_total",
)


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a replica that is ready."""

    instance_ids: Sequence[str]
    cpu_s: float
    """Seconds of CPU time that its process has used so far."""
    occupancy: float | None
    """The share of its slots that is taken, if it has slots."""


async def read(session: aiohttp.ClientSession, address: str | None) -> Reading | None:
    """What the replica at an address tells; None if it is not ready, or says nothing in time."""
    if address is None:
        return None
    url = f"http://{address}:{MONITOR_PORT}"
    try:
        async with session.get(f"{url}/health/ready") as response:
            if response.status != 200:
                return None
            health = await response.json()
        async with session.get(f"{url}/metrics") as response:
            return parse(await response.text(), list(health["services"]))
    except (TimeoutError, aiohttp.ClientError, ValueError, KeyError):
        return None


def parse(metrics: str, instance_ids: Sequence[str]) -> Reading:
    """A reading from a page of metrics. Raises KeyError where it has no CPU time."""
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name in (RUNNING, CAPACITY, CPU)
    }
    capacity = values.get(CAPACITY, 0.0)
    occupancy = values.get(RUNNING, 0.0) / capacity if capacity else None
    return Reading(instance_ids, values[CPU], occupancy)


class Meter:
    """Turns readings into utilisations: CPU time counts from one reading to the next."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, float]] = {}

    def utilisation(
        self, container_id: str, reading: Reading, at: float, cpus: float | None
    ) -> float | None:
        """The larger of the shares of slots and of CPU that are taken, None if neither is known
        yet. `cpus` is the container's limit. Without one, a process counts as full at one CPU, as
        an event loop is; where it has slots they alone tell: it computes on several threads, and
        may well use more than one CPU at a single request."""
        before = self._last.get(container_id)
        self._last[container_id] = (at, reading.cpu_s)
        shares = [] if reading.occupancy is None else [reading.occupancy]
        is_known = before is not None and at > before[0] and reading.cpu_s >= before[1]
        if before is not None and is_known and (cpus is not None or not shares):
            shares.append((reading.cpu_s - before[1]) / (at - before[0]) / (cpus or 1.0))
        return max(shares, default=None)

    def keep(self, container_ids: Collection[str]) -> None:
        """Forgets all containers but these."""
        self._last = {id_: last for id_, last in self._last.items() if id_ in container_ids}
