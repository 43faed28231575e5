"""The autoscaler on a running stack: up with a step of load, down with its end, and no more."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.load import Load, median_latency_s, worst_latency_s
from tests.e2e.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(300)]

CLIENTS = 24
"""tests/e2e/compose.yml says why these make it three verifiers."""
PATIENCE_S = 60.0
AT_REST_S = 8.0
"""Longer than cool-down and calm together: what would change has changed by then."""


@contextmanager
def autoscaler(stack: Stack, *, dry_run: bool = False) -> Iterator[None]:
    """It runs within the body; then the stack is as it was."""
    started = ("up", "-d", "--wait", "--wait-timeout", "60", "--no-deps", "autoscaler")
    stack.compose(*started, E2E_DRY_RUN=str(dry_run))
    try:
        yield
    finally:
        stack.compose("rm", "--stop", "--force", "autoscaler")
        stack.up()


def metric(stack: Stack, name: str, labels: str = 'service="verifier"') -> float:
    """A number that the autoscaler tells."""
    (container,) = stack.containers("autoscaler")
    networks = container.attrs["NetworkSettings"]["Networks"]
    address = networks[f"{stack.project}_backend"]["IPAddress"]
    with urllib.request.urlopen(f"http://{address}:9100/metrics", timeout=5) as response:
        text = response.read().decode()
    found = re.search(rf"^autoscaler_{name}\{{{labels}\}} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def until(condition: Callable[[], bool]) -> None:
    """Asks again and again: neither metrics nor a list of containers tells when it changes."""
    give_up = time.monotonic() + PATIENCE_S
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < give_up
        await asyncio.sleep(0.25)


def verifiers(stack: Stack) -> list[str]:
    return [c.id for c in stack.containers("verifier", running_only=True)]


def test_it_has_no_right_but_the_socket(stack: Stack) -> None:
    with autoscaler(stack, dry_run=True):
        assert stack.run("autoscaler", "id -u").strip() == "10001"
        status = stack.run("autoscaler", "cat /proc/1/status")
        assert "CapEff:\t0000000000000000\n" in status
        assert "NoNewPrivs:\t1\n" in status
        assert stack.run("autoscaler", "touch /x 2>/dev/null && echo written || echo no") == "no\n"
        script = "import socket; socket.create_connection(('192.0.2.1', 80), 3)"
        said = stack.run("autoscaler", f'python -c "{script}" 2>&1 || true')
        assert re.search("unreachable|timed out", said), "engines refuse the way out, or swallow it"


def test_a_dry_run_wants_and_changes_nothing(stack: Stack) -> None:
    before = verifiers(stack)
    with stack.recorded("verifier") as events, autoscaler(stack, dry_run=True):
        fewer = 'service="verifier",to="fewer"'
        asyncio.run(until(lambda: metric(stack, "changes_total", fewer) > 0))
        assert metric(stack, "wanted_replicas") in (len(before), len(before) - 1)
        assert verifiers(stack) == before
    assert events == []


async def test_replicas_follow_a_step_of_load(stack: Stack, answers: list[str]) -> None:
    await asyncio.to_thread(stack.up)
    with autoscaler(stack):
        await until(lambda: len(verifiers(stack)) == 1)
        load = Load(stack.gateways, clients=CLIENTS)
        with stack.recorded("verifier") as events:
            up_s = await _under(load, stack)
            ended = time.monotonic()
            await until(lambda: len(verifiers(stack)) == 1)
            down_s = time.monotonic() - ended
            await asyncio.sleep(AT_REST_S)
    print(
        f"three verifiers after {up_s:.1f} s, one {down_s:.1f} s after the load; "
        f"{len(load.outcomes)} requests, median {median_latency_s(load.outcomes):.2f} s, "
        f"worst {worst_latency_s(load.outcomes):.2f} s"
    )
    assert events == [("start", "")] * 2 + [("die", "0")] * 2, "up, up, down, down, and no more"
    failures = [o.failure for o in load.outcomes if o.failure]
    assert not failures, failures[:3]
    assert all(o.answer == answers[o.call] for o in load.outcomes)
    assert sum(o.num_cut + o.num_refused for o in load.outcomes) == 0


async def _under(load: Load, stack: Stack) -> float:
    """The load until three verifiers are at work, and for a while; the seconds that it took."""
    async with load.running():
        began = time.monotonic()
        await until(lambda: (len(verifiers(stack)), metric(stack, "silent_replicas")) == (3, 0.0))
        up_s = time.monotonic() - began
        await asyncio.sleep(AT_REST_S)
        assert len(verifiers(stack)) == 3
        await asyncio.to_thread(_compose_takes_them_for_its_own, stack)
    return up_s


def _compose_takes_them_for_its_own(stack: Stack) -> None:
    """It lists those that it did not make, counts them in, and has nothing to change about them."""
    before = verifiers(stack)
    assert sorted(stack.compose("ps", "-q", "verifier").split()) == sorted(before)
    stack.scale_to({"verifier": 3})
    assert verifiers(stack) == before
