"""Replicas come and go under load: new ones work at once, removed ones finish what they have."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.error
import urllib.request
from datetime import datetime

import pytest
from docker.models.containers import Container

from tests.e2e.load import Load
from tests.e2e.stack import PEACE, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(300)]

MORE = {"gateway": 3, "verifier": 3, "voter": 3, "recommender": 3, "drafter-small": 3}
WORK = {
    "gateway": "vllm:e2e_request_latency_seconds_count",
    "verifier": "forward_pass_seconds_count",
    "voter": "vote_rounds_total",
    "recommender": "scoring_requests_count",
    "drafter-small": "drafter_proposed_tokens_total",
}
WITHIN_S = 5.0
PEACE_S = 10.0
"""Of steady load before: the first seconds of a load are heavier, while the stack learns it."""
LOOK_EVERY_S = 0.25


async def test_replicas_join_and_leave_under_load(stack: Stack, answers: list[str]) -> None:
    before = {service: {c.id for c in stack.containers(service)} for service in MORE}
    load = Load(stack.gateways)
    async with load.running():
        await asyncio.sleep(PEACE_S)  # the load itself is what is wanted
        await asyncio.to_thread(stack.scale_to, MORE)
        new = {s: [c for c in stack.containers(s) if c.id not in before[s]] for s in MORE}
        assert {s: len(found) for s, found in new.items()} == {
            s: count - PEACE.get(s, 1) for s, count in MORE.items()
        }
        await load.look_for_gateways()
        waits = await asyncio.gather(
            *(asyncio.to_thread(_seconds_to_work, s, c) for s, found in new.items() for c in found)
        )
        since = time.time()
        await asyncio.to_thread(stack.scale_to, PEACE | {"drafter-small": 1})
        ends = await asyncio.to_thread(stack.exit_codes, since)
    print("seconds from a container's start to its first work:", waits)
    assert max(waits) <= WITHIN_S, dict(zip(new, waits, strict=False))
    assert len(ends) == sum(len(found) for found in new.values())
    assert set(ends.values()) == {0}, ends
    failures = [o.failure for o in load.outcomes if o.failure]
    assert not failures, failures[:3]
    assert all(o.answer == answers[o.call] for o in load.outcomes)


def _seconds_to_work(service: str, container: Container) -> float:
    """From the container's start until its metrics, asked again and again, show work."""
    container.reload()
    started = datetime.fromisoformat(container.attrs["State"]["StartedAt"][:26] + "+00:00")
    networks = container.attrs["NetworkSettings"]["Networks"]
    address = next(n["IPAddress"] for name, n in networks.items() if name.endswith("_backend"))
    while time.time() - started.timestamp() < 6 * WITHIN_S:
        try:
            with urllib.request.urlopen(f"http://{address}:9100/metrics", timeout=2) as response:
                text = response.read().decode()
        except OSError:
            text = ""
        values = re.findall(rf"^{WORK[service]}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
        if sum(map(float, values)) > 0:
            break
        time.sleep(LOOK_EVERY_S)  # a container that starts sends no word
    return time.time() - started.timestamp()
