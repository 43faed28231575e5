"""One fault after the other under a steady load: nothing is lost, doubled or changed."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request
from collections.abc import Mapping

import pytest

from tests.e2e.faults import FAULTS, Fault
from tests.e2e.load import RATE, Load, recovery_s, throughput, worst_latency_s
from tests.e2e.report import Row
from tests.e2e.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PEACE_S = 2.0
"""Of load before the fault. All times here are how long the load runs, not waits for an event."""
MIN_AFTER_S, MAX_AFTER_S = 5.0, 24.0
MAX_RECOVERY_S = 15.0
MAX_INBOX = 2000
SETTLING_S = 15.0


# A crash of each kind of service is what CI has time for; drafters are all alike.
IN_CI = {
    f"{service}: kill -9"
    for service in ("gateway", "verifier", "voter", "drafter-small", "recommender", "redis")
}
CASES = [
    pytest.param(fault, id=fault.name, marks=[] if fault.name in IN_CI else [pytest.mark.thorough])
    for fault in FAULTS
]


@pytest.mark.parametrize("fault", CASES)
async def test_fault(fault: Fault, stack: Stack, answers: list[str], report: list[Row]) -> None:
    unclaimed = await asyncio.to_thread(_unclaimed, stack)
    load = Load(stack.gateways)
    async with load.running():
        await asyncio.sleep(PEACE_S)
        num_in_flight = load.num_in_flight
        broken = fault.on(stack)
        await asyncio.to_thread(broken.__enter__)
        await asyncio.sleep(fault.hold_s)
        await asyncio.to_thread(broken.__exit__, None, None, None)
        healed = time.monotonic()
        await _until_recovered(load, healed)
    row = Row(
        fault.name,
        len(load.outcomes),
        num_in_flight,
        sum(o.failure is not None for o in load.outcomes),
        await asyncio.to_thread(_num_duplicated, stack, unclaimed),
        sum(o.answer is not None and o.answer != answers[o.call] for o in load.outcomes),
        sum(o.num_cut for o in load.outcomes),
        sum(o.num_refused for o in load.outcomes),
        worst_latency_s(load.outcomes),
        recovery_s(load.outcomes, healed, RATE),
    )
    report.append(row)
    failures = [o.failure for o in load.outcomes if o.failure]
    assert not failures, failures[:3]
    assert (row.num_lost, row.num_duplicated, row.num_changed) == (0, 0, 0), row
    assert row.recovery_s <= MAX_RECOVERY_S, row
    assert await asyncio.to_thread(_leftovers, stack) == {}
    assert await asyncio.to_thread(stack.longest_inbox) < MAX_INBOX


async def _until_recovered(load: Load, healed: float) -> None:
    """Goes on until the last seconds are at full throughput, for some seconds at least."""
    await asyncio.sleep(MIN_AFTER_S)
    while time.monotonic() - healed < MAX_AFTER_S:
        now = time.monotonic()
        if throughput(load.outcomes, now - 3.0, now) >= 0.9 * RATE:
            return
        await asyncio.sleep(0.25)


def _leftovers(stack: Stack) -> Mapping[str, int]:
    """What is still in streams that should be empty, once the system had time to settle."""
    give_up = time.monotonic() + SETTLING_S
    while (found := stack.leftovers()) and time.monotonic() < give_up:
        time.sleep(0.25)
    return found


def _unclaimed(stack: Stack) -> dict[str, float]:
    """Terminal messages that no request of a gateway waited for, by gateway."""
    counts = {}
    for url in stack.gateways():
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
            text = response.read().decode()
        found = re.findall(r"^replies_unclaimed_total\{.*\} (\S+)", text, re.MULTILINE)
        counts[url] = sum(map(float, found))
    return counts


def _num_duplicated(stack: Stack, before: Mapping[str, float]) -> int:
    after = _unclaimed(stack)
    # A gateway that was started again counts from nothing.
    return int(sum(n - before.get(u, 0.0) if n >= before.get(u, 0.0) else n
                   for u, n in after.items()))  # fmt: skip
