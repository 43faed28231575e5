"""Containers with deploy/tracing.yml send their part of a request's trace to a collector."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.collector import Collector, collecting
from tests.e2e.stack import ROOT, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(600)]

SERVICES = ("gateway", "verifier", "voter", "drafter-lookup")
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
BODY = {
    "prompt": "def read_lines(path):\n",
    "max_tokens": 24,
    "temperature": 0,
    "speculation": {"length": 3},
    "return_speculation": True,
}


@asynccontextmanager
async def traced(collector: Collector) -> AsyncIterator[Stack]:
    stack = Stack({}, ROOT / "deploy" / "tracing.yml")
    endpoint = f"http://host.docker.internal:{collector.url.rpartition(':')[2]}"
    up = ("up", "-d", "--wait", "--wait-timeout", "120", *SERVICES)
    try:
        await asyncio.to_thread(stack.compose, "build", "--quiet", *SERVICES)
        await asyncio.to_thread(stack.compose, *up, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
        yield stack
    finally:
        await asyncio.to_thread(stack.down)


async def ask(url: str, flags: str) -> bool:
    """Whether anybody drafted."""
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-{flags}"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/v1/completions", json=BODY, headers=headers) as response,
    ):
        assert response.status == 200, await response.text()
        answer = await response.json()
    return bool(answer["metrics"]["speculative_decoding"]["drafters"])


async def test_a_request_is_one_trace_through_all_containers() -> None:
    async with collecting("0.0.0.0") as collector, traced(collector) as stack:
        (url,) = stack.gateways()
        async with asyncio.timeout(60):
            while not await ask(url, "00"):
                pass  # the verifier has not met the drafter yet
        await ask(url, "01")
        # What has not been sent yet is when they drain.
        await asyncio.to_thread(stack.compose, "stop")
    spans = collector.spans
    assert {span.span.trace_id.hex() for span in spans} == {TRACE}
    assert {str(span.role) for span in spans} == {"gateway", "verifier", "voter", "drafter"}
    for name in ("POST /v1/completions", "process generate.requests", "round", "propose", "vote"):
        assert collector.named(name), name
    assert not [span for span in spans if span.has_failed]
