"""GET /v1/status: what is live and waits, and what this gateway's requests added up to."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp

from services.gateway.config import GatewayConfig
from services.gateway.service import GatewayService
from services.gateway.tally import Tally
from shared.bus.memory import MemoryBus
from shared.config import BusConfig
from shared.generation import Times
from shared.messages import DrafterReport, Finished, GenerateRequest, GenerationReport
from shared.service import Terminal
from shared.topics import generate_requests, recommend_requests, score_requests
from tests.gateway.conftest import MODEL, REPORT, ScriptedVerifier, Stage, fail, wait_for_cancel
from tests.system import running

DRAFTERS = [
    DrafterReport("small", 2, 8, 0, 6, 2, 0.9),
    DrafterReport("wide", 1, 4, 0, 1, 0, 0.4),
]


async def status(stage: Stage) -> dict:
    async with stage.http.get(f"{stage.url}/v1/status") as response:
        assert response.status == 200
        return dict(await response.json())


async def test_before_any_request_all_is_zero(stage: Stage) -> None:
    body = await status(stage)
    assert body.keys() == {
        *("object", "model", "time", "in_flight", "queues", "instances", "drafters", "totals")
    }
    assert (body["object"], body["model"], body["in_flight"]) == ("status", MODEL, 0)
    assert abs(body["time"] - time.time()) < 60
    assert body["queues"] == {"generate": 0, "recommend": 0}
    assert body["drafters"] == {}
    assert set(body["totals"].values()) == {0}


async def test_every_live_instance_is_told_with_what_it_tells_of_itself(stage: Stage) -> None:
    instances = {i["role"]: i for i in (await status(stage))["instances"]}
    assert instances.keys() == {"gateway", "verifier"}
    assert instances["verifier"] == {
        "id": stage.verifier.instance_id,
        "role": "verifier",
        "name": MODEL,
        "attributes": {},
    }
    assert instances["gateway"]["attributes"]["port"] == str(stage.gateway.port)


async def test_finished_requests_add_up(stage: Stage) -> None:
    async def play(verifier: ScriptedVerifier, request: GenerateRequest) -> Terminal:
        await verifier.tokens(request, 0, request.prompt[:2])
        report = GenerationReport(0, REPORT.per_round, 0, Times(), DRAFTERS)
        return Finished(request.request_id, 2, "length", report)

    stage.verifier.script = play
    for _ in range(3):
        got, _, _ = await stage.post("/v1/completions", {"prompt": "The quick", "max_tokens": 2})
        assert got == 200
    body = await status(stage)
    num_prompt = len(stage.text.encode("The quick"))
    assert body["totals"] == {
        "requests": 3,
        "prompt_tokens": 3 * num_prompt,
        "completion_tokens": 6,
        "target_passes": 9,
        "draft_tokens": 24,
        "accepted_tokens": 12,
    }
    assert list(body["drafters"]) == ["small", "wide"]
    assert body["drafters"]["small"] == {
        "num_proposed_tokens": 24,
        "num_agreed_tokens": 18,
        "num_votes_won": 6,
        "weight": 0.9,
        "acceptance": 0.75,
    }
    assert body["in_flight"] == 0


async def test_what_fails_is_not_counted_and_what_is_at_work_is_in_flight(stage: Stage) -> None:
    stage.verifier.script = fail
    assert (await stage.post("/v1/completions", {"prompt": "x"}))[0] == 500
    stage.verifier.script = wait_for_cancel
    asked = {"prompt": "x", "stream": True}
    async with stage.http.post(f"{stage.url}/v1/completions", json=asked) as response:
        await response.content.readany()
        body = await status(stage)
    assert body["in_flight"] == 1
    assert body["totals"]["requests"] == 0
    async with asyncio.timeout(5):
        await stage.verifier.cancelled.get()


async def test_queues_are_what_nobody_has_taken(model_folder: Path) -> None:
    bus = MemoryBus(BusConfig())
    gateway = GatewayService(GatewayConfig(port=0, model=model_folder), bus, BusConfig())
    waiting = {generate_requests(MODEL): 2, recommend_requests("import-next"): 1}
    for topic, count in {**waiting, score_requests("import-next"): 3}.items():
        for _ in range(count):
            await bus.publish_bytes(topic.name, b"waits")
    async with running(gateway):
        url = f"http://127.0.0.1:{gateway.port}/v1/status"
        async with aiohttp.request("GET", url) as response:
            assert (await response.json())["queues"] == {"generate": 2, "recommend": 4}


def test_a_tally_keeps_the_last_weight_and_divides_by_nothing() -> None:
    tally = Tally()
    tally.add(
        1, 1, GenerationReport(0, [(0, 0)], 0, Times(), [DrafterReport("a", 1, 0, 0, 0, 0, 1)])
    )
    assert tally.drafters["a"].acceptance == 0.0
    tally.add(
        1, 1, GenerationReport(0, [(2, 1)], 0, Times(), [DrafterReport("a", 1, 2, 0, 1, 0, 7)])
    )
    assert (tally.drafters["a"].weight, tally.drafters["a"].acceptance) == (7, 0.5)
    assert (tally.totals.target_passes, tally.totals.draft_tokens) == (2, 2)
