"""What replicas tell, and how busy that shows them to be."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from deploy.autoscaler import readings
from deploy.autoscaler.readings import Meter, Reading, parse, read
from services.voter.config import VoterConfig
from services.voter.service import VoterService
from shared.bus.memory import MemoryBus
from shared.config import BusConfig, ProcessConfig
from shared.monitor import Monitor
from tests.redis_server import free_port

VOTER_PAGE = """\
# HELP process_cpu_seconds_total Total user and system CPU time spent in seconds.
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 3.5
"""
SLOTS = """\
# HELP vllm:num_requests_running Requests that hold a cache slot
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="quorum-6m"} 12.0
# HELP num_requests_capacity Cache slots: the most that can run
# TYPE num_requests_capacity gauge
num_requests_capacity 16.0
"""


def reading(cpu_s: float, occupancy: float | None = None) -> Reading:
    return Reading(["voter.quorum.1"], cpu_s, occupancy)


def test_a_page_is_read() -> None:
    assert parse(SLOTS + VOTER_PAGE, ["a"]) == Reading(["a"], 3.5, 0.75)
    assert parse(VOTER_PAGE, ["a"]) == Reading(["a"], 3.5, None)
    with pytest.raises(KeyError):
        parse(SLOTS, ["a"])


def test_cpu_counts_from_one_reading_to_the_next() -> None:
    meter = Meter()
    assert meter.utilisation("a", reading(10.0), 100.0, None) is None
    assert meter.utilisation("a", reading(11.5), 105.0, None) == pytest.approx(0.3)
    assert meter.utilisation("b", reading(50.0), 105.0, None) is None


def test_a_limit_is_what_full_means() -> None:
    meter = Meter()
    meter.utilisation("a", reading(0.0), 0.0, 0.5)
    assert meter.utilisation("a", reading(2.0), 5.0, 0.5) == pytest.approx(0.8)
    meter.utilisation("b", reading(0.0), 0.0, 4.0)
    assert meter.utilisation("b", reading(10.0), 5.0, 4.0) == pytest.approx(0.5)


def test_a_process_that_has_started_again_is_not_known_yet() -> None:
    meter = Meter()
    meter.utilisation("a", reading(10.0), 0.0, None)
    assert meter.utilisation("a", reading(0.5), 5.0, None) is None
    assert meter.utilisation("a", reading(1.0), 10.0, None) == pytest.approx(0.1)


def test_slots_tell_at_once_and_cpu_beside_them_where_it_is_limited() -> None:
    meter = Meter()
    assert meter.utilisation("a", reading(0.0, 0.25), 0.0, None) == 0.25
    assert meter.utilisation("a", reading(9.0, 0.25), 5.0, None) == 0.25, "of many cores"
    meter.utilisation("b", reading(0.0, 0.25), 0.0, 2.0)
    assert meter.utilisation("b", reading(9.0, 0.25), 5.0, 2.0) == pytest.approx(0.9)


def test_a_moments_occupancy_counts_half() -> None:
    meter = Meter()
    shares = [
        meter.utilisation("a", reading(0.0, occupancy), float(at), None)
        for at, occupancy in enumerate([0.0, 1.0, 0.0, 1.0, 1.0])
    ]
    assert shares == [0.0, 0.5, 0.25, 0.625, 0.8125]


def test_what_is_gone_is_forgotten() -> None:
    meter = Meter()
    meter.utilisation("a", reading(10.0), 0.0, None)
    meter.keep([])
    assert meter.utilisation("a", reading(11.0), 5.0, None) is None


async def test_a_service_is_read_once_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr(readings, "MONITOR_PORT", port)
    bus = MemoryBus(BusConfig())
    voter = VoterService(VoterConfig(), bus, bus.config)
    async with aiohttp.ClientSession(timeout=readings.TIMEOUT) as session:
        assert await read(session, "127.0.0.1") is None, "nobody listens"
        async with Monitor(ProcessConfig(monitor_port=port), [voter]):
            assert await read(session, "127.0.0.1") is None, "it starts"
            running = asyncio.create_task(voter.run())
            await asyncio.wait_for(voter.ready.wait(), 5)
            found = await read(session, "127.0.0.1")
            assert found is not None
            assert found.instance_ids == [voter.instance_id]
            assert found.cpu_s > 0
            voter.drain()
            assert await read(session, "127.0.0.1") is None, "it drains"
            await running
        assert await read(session, None) is None
