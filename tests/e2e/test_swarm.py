"""deploy/swarm.yml under a steady load: replicas, updates and crashes change no answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.load import Load, median_latency_s, worst_latency_s
from tests.e2e.swarm import PORT, Swarm

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(600)]

SERVICES = (
    *("gateway", "verifier", "voter", "drafter-small", "drafter-wide", "drafter-lookup"),
    "recommender",
)
MORE = {"gateway": 3, "verifier": 3, "voter": 3, "recommender": 3, "drafter-small": 2}
PEACE = {"gateway": 2, "verifier": 2, "voter": 2, "recommender": 2, "drafter-small": 1}


@pytest.fixture(scope="module")
def swarm() -> Iterator[Swarm]:
    swarm = Swarm()
    try:
        swarm.up()
        yield swarm
    finally:
        swarm.down()


@pytest.fixture(scope="module")
def answers(swarm: Swarm) -> list[str]:
    """What the undisturbed system answers to each call, completions and recommendations."""
    return asyncio.run(Load(swarm.gateways).answers())


async def undisturbed_by(what: Callable[[], None], swarm: Swarm, answers: list[str]) -> None:
    """Does it under load, and holds every answer to the undisturbed one."""
    load = Load(swarm.gateways)
    async with load.running():
        await asyncio.to_thread(what)
    failures = [o.failure for o in load.outcomes if o.failure]
    print(
        f"{len(load.outcomes)} requests, {len(failures)} failed, "
        f"{sum(o.num_cut for o in load.outcomes)} cut, "
        f"{sum(o.num_refused for o in load.outcomes)} refused, "
        f"median {median_latency_s(load.outcomes):.2f} s, "
        f"worst {worst_latency_s(load.outcomes):.1f} s"
    )
    assert not failures, failures[:3]
    assert load.outcomes
    assert all(o.answer == answers[o.call] for o in load.outcomes)


def test_a_task_is_nobody_and_can_write_nowhere(swarm: Swarm, answers: list[str]) -> None:
    for service in (*SERVICES, "redis"):
        assert swarm.run(service, "id -u").strip() != "0"
        status = swarm.run(service, "cat /proc/1/status")
        assert "CapEff:\t0000000000000000\n" in status
        assert "CapBnd:\t0000000000000000\n" in status
        for path in ("/x", "/app/models/x", "/run/secrets/x"):
            assert swarm.run(service, f"touch {path} 2>/dev/null || echo no") == "no\n"


def test_one_port_leads_to_the_gateways(swarm: Swarm, answers: list[str]) -> None:
    if not swarm.has_mesh:
        pytest.skip("no routing mesh: this kernel has no ip_vs (CONFIG_IP_VS)")
    assert swarm.gateways() == [f"http://127.0.0.1:{PORT}"]
    assert asyncio.run(Load(swarm.gateways).answers()) == answers


async def test_replicas_join_and_leave(swarm: Swarm, answers: list[str]) -> None:
    def more_and_less() -> None:
        swarm.scale(MORE)
        assert {s: len(swarm.containers(s)) for s in MORE} == MORE
        swarm.scale(PEACE)

    await undisturbed_by(more_and_less, swarm, answers)


@pytest.mark.parametrize("service", [*SERVICES, "redis"])
async def test_rolling_update(service: str, swarm: Swarm, answers: list[str]) -> None:
    before = {container.id for container in swarm.containers(service)}
    await undisturbed_by(lambda: swarm.update(service), swarm, answers)
    assert not before & {container.id for container in swarm.containers(service)}
    assert swarm.service(service).attrs["UpdateStatus"]["State"] == "completed"
    assert set(swarm.exit_codes(service)) == {0}


@pytest.mark.parametrize("service", ["verifier", "gateway", "redis"])
async def test_a_task_that_dies_is_replaced(service: str, swarm: Swarm, answers: list[str]) -> None:
    await undisturbed_by(lambda: swarm.kill(service), swarm, answers)


def test_who_gives_up_on_redis_comes_back(swarm: Swarm, answers: list[str]) -> None:
    swarm.scale({"redis": 0})
    with swarm.events("voter", "die") as deaths:
        killed = swarm.containers("voter")[0]
        killed.kill("SIGKILL")
        given_up = next(event for event in deaths if event["id"] != killed.id)
    assert given_up["Actor"]["Attributes"]["exitCode"] == "1"
    swarm.scale({"redis": 1})
    assert asyncio.run(Load(swarm.gateways).answers()) == answers
