"""What replicas tell of themselves over HTTP, and how busy that shows them to be."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

MONITOR_PORT = 9100
"""As deploy/Dockerfile sets it."""
TIMEOUT = aiohttp.ClientTimeout(total=2.0)
RUNNING, CAPACITY, CPU = (
    "vllm:num_requests_running",
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
    """Turns readings into utilisations. CPU time counts from one reading to the next. The number of
    slots taken jumps about from look to look: it counts half as it is and half as it was."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, Reading]] = {}

    def utilisation(
        self, container_id: str, reading: Reading, at: float, cpus: float | None
    ) -> float | None:
        """The larger of the shares of slots and of CPU that are taken, None if neither is known
        yet. `cpus` is the container's limit. Without one, a process counts as full at one CPU, as
        an event loop is; where it has slots they alone tell: it computes on several threads, and
        may well use more than one CPU at a single request."""
        last_at, last = self._last.get(container_id, (at, reading))
        if reading.occupancy is not None and last.occupancy is not None:
            reading = replace(reading, occupancy=(reading.occupancy + last.occupancy) / 2)
        self._last[container_id] = (at, reading)
        shares = [] if reading.occupancy is None else [reading.occupancy]
        # A process that has started again has used less than before.
        is_comparable = at > last_at and reading.cpu_s >= last.cpu_s
        if is_comparable and (cpus is not None or not shares):
            shares.append((reading.cpu_s - last.cpu_s) / (at - last_at) / (cpus or 1.0))
        return max(shares, default=None)

    def keep(self, container_ids: Collection[str]) -> None:
        """Forgets all containers but these."""
        self._last = {id_: last for id_, last in self._last.items() if id_ in container_ids}
