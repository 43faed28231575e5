"""One generation and one recommendation through a whole system, seen as traces: by services in
processes of their own over Redis, and by all in one process."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.collector import Collector, Received, collecting
from tests.processes import PATIENCE_S, Process
from tests.redis_server import RedisServer, free_port

pytestmark = pytest.mark.timeout(180)
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVICES = ("drafter", "voter", "verifier", "recommender", "gateway")
COMPLETION = {"prompt": "def read_lines(path):\n", "max_tokens": 32, "temperature": 0}
RECOMMENDATION = {"context": {"package": ["asyncio"]}, "k": 3}


@dataclass
class Scene:
    http: aiohttp.ClientSession
    url: str
    processes: list[Process]

    async def post(self, path: str, body: object, flags: str | None) -> dict:
        headers = {} if flags is None else {"traceparent": f"00-{TRACE}-{CALLER}-{flags}"}
        async with self.http.post(self.url + path, json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def until_all_draft(self) -> None:
        """Asks, untraced, until the verifier has seen every drafter."""
        body = COMPLETION | {"return_speculation": True}
        async with asyncio.timeout(PATIENCE_S):
            drafters: set[str] = set()
            while drafters != {"quorum-draft-small", "ngram"}:
                answer = await self.post("/v1/completions", body, "00")
                told = answer["metrics"]["speculative_decoding"]["drafters"]
                drafters = {drafter["name"] for drafter in told}

    async def metric(self, name: str) -> float:
        """The sum over labels of what the gateway's process shows."""
        async with self.http.get(f"{self.url}/metrics") as response:
            page = await response.text()
        found = re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", page, re.MULTILINE)
        return sum(map(float, found))

    async def end(self) -> None:
        """Drains all, the door first."""
        for process in reversed(self.processes):
            assert await process.terminate() == 0, process.output


@asynccontextmanager
async def system(bus_url: str, logs: Path, **environment: str) -> AsyncIterator[Scene]:
    port = free_port()
    settings = {
        "BUS_URL": bus_url,
        "BUS_KEY_PREFIX": uuid.uuid4().hex,
        "GATEWAY_PORT": str(port),
        "DRAFTER_MODELS": "models/quorum-draft-small,ngram",
        "VERIFIER_DRAFTING": "all",
        "PYTHONWARNINGS": "error",
        **environment,
    }
    names = ["__main__"] if bus_url == "memory://" else list(SERVICES)
    processes = [Process(name, settings, logs / f"{name}.log") for name in names]
    try:
        async with aiohttp.ClientSession() as http:
            scene = Scene(http, f"http://127.0.0.1:{port}", processes)
            await _until_ready(scene)
            yield scene
    finally:
        for process in processes:
            process.kill()


async def _until_ready(scene: Scene) -> None:
    give_up = time.monotonic() + PATIENCE_S
    wanted = {"drafter", "voter", "verifier", "recommender", "gateway"}
    while True:
        try:
            async with scene.http.get(f"{scene.url}/v1/status") as response:
                instances = (await response.json())["instances"]
                drafters = [i for i in instances if i["role"] == "drafter"]
                if {i["role"] for i in instances} == wanted and len(drafters) == 2:
                    return
        except aiohttp.ClientError:
            pass  # it does not listen yet
        assert time.monotonic() < give_up, [process.output[-2000:] for process in scene.processes]
        await asyncio.sleep(0.05)  # nothing tells when a process is ready


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as collector:
        yield collector


@pytest.fixture(params=["memory", "redis"])
def bus_url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url


async def test_a_request_is_one_trace_through_all_services(
    bus_url: str, collector: Collector, tmp_path: Path
) -> None:
    async with system(bus_url, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url) as scene:
        await scene.until_all_draft()
        answer = await scene.post("/v1/completions", COMPLETION, "01")
        await scene.post("/v1/recommendations", RECOMMENDATION, None)
        await scene.end()

    generation = [span for span in collector.spans if span.span.trace_id.hex() == TRACE]
    others = [span for span in collector.spans if span.span.trace_id.hex() != TRACE]
    check_generation(generation, answer)
    check_recommendation([span for span in others if span.name != "GET /v1/status"])
    for span in collector.spans:
        assert span.service["service.namespace"] == "quorum"
        assert str(span.service["service.instance.id"]).startswith(f"{span.role}.")
        assert 0 < span.span.start_time_unix_nano <= span.span.end_time_unix_nano
        assert not span.has_failed


def check_generation(spans: list[Received], answer: dict) -> None:
    root, queue, process, prefill, *_ = ordered = [
        only(spans, name)
        for name in ("POST /v1/completions", "queue generate", "process generate", "prefill")
    ]
    rounds, votes, proposals = (named(spans, name) for name in ("round", "vote", "propose"))
    assert len(ordered) + sum(map(len, (rounds, votes, proposals))) == len(spans)
    assert [span.role for span in ordered] == ["gateway", "verifier", "verifier", "verifier"]

    assert root.span.parent_span_id.hex() == CALLER
    told = root.attributes
    assert told["http.route"] == "/v1/completions"
    assert told["http.response.status_code"] == 200
    assert told["gen_ai.operation.name"] == "text_completion"
    assert told["gen_ai.response.model"] == answer["model"]
    assert told["gen_ai.response.id"] == answer["id"]
    assert told["gen_ai.response.finish_reasons"] == [answer["choices"][0]["finish_reason"]]
    assert told["gen_ai.usage.input_tokens"] == answer["usage"]["prompt_tokens"]
    assert told["gen_ai.usage.output_tokens"] == answer["usage"]["completion_tokens"]

    assert parents([process]) == {root.span.span_id}
    assert parents([queue, prefill, *rounds]) == {process.span.span_id}
    assert (
        process.attributes["messaging.destination.name"] == f"generate.requests.{answer['model']}"
    )
    assert process.attributes["quorum.num_rounds"] == len(rounds)
    emitted = sum(int(str(span.attributes["quorum.num_emitted_tokens"])) for span in rounds)
    assert emitted == answer["usage"]["completion_tokens"]

    ids = {span.span.span_id for span in rounds}
    assert votes
    assert parents(votes) <= ids
    assert {span.role for span in votes} == {"voter"}
    assert {span.role for span in proposals} == {"drafter"}
    assert {span.attributes["quorum.drafter"] for span in proposals} == {
        "quorum-draft-small",
        "ngram",
    }
    assert parents(proposals) <= ids


def check_recommendation(spans: list[Received]) -> None:
    """Nobody asked for its trace, so that it began here."""
    root, process = only(spans, "POST /v1/recommendations"), only(spans, "process recommend")
    queue, score = only(spans, "queue recommend"), only(spans, "score")
    assert len(spans) == 4
    assert root.span.parent_span_id == b""
    assert {span.span.trace_id for span in spans} == {root.span.trace_id}
    assert parents([process]) == {root.span.span_id}
    assert parents([queue, score]) == {process.span.span_id}
    assert score.role == "recommender"


async def test_a_collector_that_is_away_harms_no_request(tmp_path: Path) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    async with system(
        "memory://",
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=away,
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
        OTEL_BSP_SCHEDULE_DELAY="50",
    ) as scene:
        answer = await scene.post("/v1/completions", COMPLETION, "01")
        assert answer["usage"]["completion_tokens"] > 0
        async with asyncio.timeout(PATIENCE_S):
            while await scene.metric("trace_spans_dropped_total") == 0:
                pass  # until the exporter's thread has tried
        again = await scene.post("/v1/completions", COMPLETION, "01")
        assert again["choices"][0]["text"] == answer["choices"][0]["text"]
        assert await scene.metric("trace_spans_exported_total") == 0
        started = time.monotonic()
        await scene.end()
        assert time.monotonic() - started < 20


def named(spans: list[Received], prefix: str) -> list[Received]:
    return [span for span in spans if span.name.startswith(prefix)]


def only(spans: list[Received], prefix: str) -> Received:
    (span,) = named(spans, prefix)
    return span


def parents(spans: list[Received]) -> set[bytes]:
    return {span.span.parent_span_id for span in spans}
