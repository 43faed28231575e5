"""What the gateway measures of generations under vLLM's names."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY

from shared.messages import Finished, GenerateRequest
from shared.service import Terminal
from tests.gateway.conftest import MODEL, REPORT, ScriptedVerifier, Stage

PARTS = ("queue", "prefill", "decode")


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"vllm:{name}", {"model_name": MODEL, **labels}) or 0.0


def seconds(part: str) -> float:
    return value(f"request_{part}_time_seconds_sum")


async def shown(stage: Stage, name: str) -> float:
    """What the page of metrics says."""
    async with stage.http.get(f"{stage.url}/metrics") as response:
        page = await response.text()
    return float(page.partition(f'\n{name}{{model_name="{MODEL}"}} ')[2].partition("\n")[0])


async def test_where_a_generations_time_went(stage: Stage) -> None:
    """The verifier waits in each part for a time of its own."""
    pauses = {"queue": 0.1, "prefill": 0.2, "decode": 0.3}

    async def script(verifier: ScriptedVerifier, request: GenerateRequest) -> Terminal:
        first, *rest = verifier.text.encode(verifier.words)
        await asyncio.sleep(pauses["queue"])  # the times are what is measured
        await verifier.tokens(request, 0, [])
        await asyncio.sleep(pauses["prefill"])
        await verifier.tokens(request, 0, [first])
        await asyncio.sleep(pauses["decode"])
        await verifier.tokens(request, 1, rest)
        return Finished(request.request_id, 1 + len(rest), "stop", REPORT)

    stage.verifier.script = script
    names = [*PARTS, "inference"]
    before = {part: seconds(part) for part in names}
    whole = value("e2e_request_latency_seconds_sum")
    per_token = value("request_time_per_output_token_seconds_sum")
    status, answer, _ = await stage.post("/v1/completions", {"prompt": "The", "max_tokens": 20})
    assert status == 200
    took = {part: seconds(part) - before[part] for part in names}
    for part, pause in pauses.items():
        assert took[part] > pause - 0.01, took
    assert took["inference"] == pytest.approx(took["prefill"] + took["decode"])
    whole = value("e2e_request_latency_seconds_sum") - whole
    assert whole == pytest.approx(took["queue"] + took["inference"])
    per_token = value("request_time_per_output_token_seconds_sum") - per_token
    num_tokens = answer["usage"]["completion_tokens"]
    assert per_token == pytest.approx(took["decode"] / (num_tokens - 1))


async def test_how_long_generations_are(stage: Stage) -> None:
    names = ("prompt_tokens", "generation_tokens", "params_max_tokens", "max_num_generation_tokens")
    before = {name: value(f"request_{name}_sum") for name in names}
    body = {"prompt": "The", "max_tokens": 4, "n": 3}
    status, answer, _ = await stage.post("/v1/completions", body)
    assert status == 200
    told = {name: value(f"request_{name}_sum") - before[name] for name in names}
    assert told == {
        "prompt_tokens": 3 * answer["usage"]["prompt_tokens"],
        "generation_tokens": answer["usage"]["completion_tokens"],
        "params_max_tokens": 12,
        "max_num_generation_tokens": 4,
    }


async def test_a_generation_waits_until_a_verifier_has_begun_it(stage: Stage) -> None:
    taken, begin, begun, end = (asyncio.Event() for _ in range(4))

    async def script(verifier: ScriptedVerifier, request: GenerateRequest) -> Terminal:
        taken.set()
        await begin.wait()
        await verifier.tokens(request, 0, [])
        begun.set()
        await end.wait()
        await verifier.tokens(request, 0, verifier.text.encode("The")[:1])
        return Finished(request.request_id, 1, "stop", REPORT)

    stage.verifier.script = script
    assert value("num_requests_waiting") == 0
    body = {"prompt": "The", "max_tokens": 4}
    asked = asyncio.create_task(stage.post("/v1/completions", body))
    async with asyncio.timeout(10):
        await taken.wait()
        assert value("num_requests_waiting") == 1
        begin.set()
        await begun.wait()
        while await shown(stage, "vllm:num_requests_waiting"):
            pass  # until the word has come
        end.set()
        assert (await asked)[0] == 200
    assert value("num_requests_waiting") == 0
