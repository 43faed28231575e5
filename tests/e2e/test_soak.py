"""Half an hour at seven tenths of what the stack can take: nothing grows (make soak)."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from docker.models.containers import Container

from services.__main__ import PARTS
from tests.e2e.load import Load, throughput
from tests.e2e.stack import Stack

MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))
SHARE = 0.7
SATURATING_RATE, SATURATING_S = 200.0, 20.0
MAX_GROWTH = 1.05
MAX_MORE_FILES = 2
"""A pool may open a connection more when two of its users first meet; a leak goes on."""
SAMPLE_EVERY_S = 10.0

pytestmark = [pytest.mark.soak, pytest.mark.timeout(int(60 * MINUTES) + 600)]


@dataclass(slots=True)
class Course:
    """Memory in bytes and open files of one container, sample by sample."""

    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def growth(self, values: list[int]) -> float:
        """Median of the last fifth over that of the second: the first is warming up."""
        early, late = self._ends(values)
        return late / early

    def is_flat(self, files: list[int]) -> bool:
        """A twentieth more, or a connection or two."""
        early, late = self._ends(files)
        return late <= max(MAX_GROWTH * early, early + MAX_MORE_FILES)

    @staticmethod
    def _ends(values: list[int]) -> tuple[float, float]:
        fifth = len(values) // 5
        return statistics.median(values[fifth : 2 * fifth]), statistics.median(values[-fifth:])


async def test_nothing_grows(stack: Stack, answers: list[str]) -> None:
    capacity = await _capacity(stack)
    rate = SHARE * capacity
    print(f"capacity {capacity:.1f} requests/s; {MINUTES:g} minutes at {rate:.1f}", flush=True)
    load = Load(stack.gateways, rate)
    courses: dict[str, Course] = {}
    longest = 0
    async with load.running():
        ends = time.monotonic() + 60 * MINUTES
        while time.monotonic() < ends:
            await asyncio.sleep(SAMPLE_EVERY_S)
            await asyncio.to_thread(_sample, stack, courses)
            longest = max(longest, await asyncio.to_thread(stack.longest_inbox))
            left_s = ends - time.monotonic()
            print(f"{left_s:.0f} s left, {len(load.outcomes)} requests", flush=True)
    for name, course in courses.items():
        memory, files = course.growth(course.memory), course.growth(course.files)
        print(f"{name}: memory x{memory:.3f}, files x{files:.3f}, {course.memory[-1] >> 20} MiB")
    failures = [o.failure for o in load.outcomes if o.failure]
    assert not failures, failures[:3]
    assert all(o.answer == answers[o.call] for o in load.outcomes)
    assert {n: c for n, c in courses.items() if c.growth(c.memory) > MAX_GROWTH} == {}
    assert {n: c.files for n, c in courses.items() if not c.is_flat(c.files)} == {}
    assert longest < 1000


async def _capacity(stack: Stack) -> float:
    """Answers per second when more is asked for than can be done."""
    load = Load(stack.gateways, SATURATING_RATE)
    async with load.running():
        started = time.monotonic()
        await asyncio.sleep(SATURATING_S)
        return throughput(load.outcomes, started + SATURATING_S / 4, time.monotonic())


def _sample(stack: Stack, courses: dict[str, Course]) -> None:
    services = [*(p for p in PARTS if p != "drafter"), "redis"]
    services += [f"drafter-{name}" for name in ("small", "wide", "lookup")]
    containers = [c for s in services for c in stack.containers(s, running_only=True)]
    with ThreadPoolExecutor(len(containers)) as pool:  # the engine takes a second for each
        memory = list(pool.map(_memory, containers))
    for container, held in zip(containers, memory, strict=True):
        course = courses.setdefault(str(container.name), Course())
        course.memory.append(held)
        _, listed = container.exec_run(["ls", "/proc/1/fd"])
        course.files.append(len(listed.split()))


def _memory(container: Container) -> int:
    """What it holds itself, without files: Redis' log lies in memory here, and comes and goes."""
    held = container.stats(stream=False)["memory_stats"]["stats"]
    return int(held["anon"] if "anon" in held else held["rss"])
