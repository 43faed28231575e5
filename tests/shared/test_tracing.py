"""Traces: the envelope that carries them, what is recorded, and that nothing is where they are
off."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgpack
import pytest

from shared import tracing
from shared.bus import Bus
from shared.codec import decode, decode_traced, encode
from shared.errors import ConfigError, MalformedError
from shared.messages import Cancel, RecommendRequest
from shared.topics import recommend_requests
from shared.tracing import UNTRACED, Recorder, Span, current, recorder, resume
from tests.collector import Collector, collecting

ROOT = Path(__file__).parents[2]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADER = f"00-{TRACE}-{PARENT}-01"
MESSAGE = Cancel("r")
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def dropped(reason: str) -> float:
    return tracing.DROPPED.labels(reason)._value.get()


@pytest.fixture(autouse=True)
async def untraced() -> AsyncIterator[None]:
    """Each test begins outside of any trace."""
    resume(None)
    yield
    resume(None)


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    async with collecting() as collector:
        monkeypatch.setenv(ENDPOINT, collector.url)
        yield collector


class TestEnvelope:
    def test_outside_of_a_trace_it_is_as_it_was(self) -> None:
        assert set(msgpack.unpackb(encode(MESSAGE))) == {"v", "type", "body"}
        assert decode_traced(encode(MESSAGE)) == (MESSAGE, None)

    def test_it_carries_the_trace_that_its_sender_works_in(self) -> None:
        resume(HEADER)
        data = encode(MESSAGE)
        resume(None)
        assert decode_traced(data) == (MESSAGE, HEADER)
        assert decode(data) == MESSAGE

    @pytest.mark.parametrize(
        "wrong",
        [
            "", "x", HEADER.upper(), HEADER[1:], HEADER + "0", HEADER + "\n", "01" + HEADER[2:],
            f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", HEADER.replace("-", "_"),
        ],
    )  # fmt: skip
    def test_a_trace_of_another_form_is_refused(self, wrong: str) -> None:
        envelope = msgpack.unpackb(encode(MESSAGE)) | {"trace": wrong}
        with pytest.raises(MalformedError, match="traceparent"):
            decode(msgpack.packb(envelope))

    @pytest.mark.parametrize("wrong", [None, 1, HEADER.encode(), [HEADER]])
    def test_a_trace_of_another_type_is_refused(self, wrong: object) -> None:
        envelope = msgpack.unpackb(encode(MESSAGE)) | {"trace": wrong}
        with pytest.raises(MalformedError, match=r"\$\.trace"):
            decode(msgpack.packb(envelope))


class TestBus:
    async def test_who_reads_an_inbox_works_in_the_senders_trace(self, bus: Bus) -> None:
        async with bus.receive("box") as messages:
            resume(HEADER)
            await bus.send(["box"], Cancel("traced"))
            resume(None)
            await bus.send(["box"], Cancel("untraced"))
            assert await anext(messages) == Cancel("traced")
            assert current().traceparent == HEADER
            assert await anext(messages) == Cancel("untraced")
            assert current().traceparent is None

    async def test_a_delivery_tells_its_trace_and_how_long_it_waited(self, bus: Bus) -> None:
        topic = recommend_requests("m")
        await bus.announce([], 1.0)  # from then on its clock is known
        resume(HEADER)
        await bus.publish(topic, RecommendRequest("r", "g", {}, None, 1, 1e12))
        resume(None)
        published = time.perf_counter()
        await asyncio.sleep(0.2)  # the time that it waits
        async with bus.subscribe(topic) as subscription:
            delivery = await subscription.next()
            most = time.perf_counter() - published
            assert delivery.trace == HEADER
            assert 0.1 < delivery.waited_s < most + 0.1
            await delivery.ack()


class TestRecording:
    async def test_spans_are_delivered_with_their_parents_and_their_service(
        self, collector: Collector
    ) -> None:
        traces = recorder()
        gateway, voter = traces.tracer("gateway", "g1"), traces.tracer("voter", "v1")
        with gateway.request("GET /", HEADER, {"http.request.method": "GET"}) as root:
            assert root
            assert current() is root
            sent = root.traceparent
        assert current() is UNTRACED
        resume(sent)
        now = time.perf_counter()
        with voter.span("outer") as outer:
            outer.set({"quorum.names": ["a", "b"], "quorum.count": 3})
            voter.record("past", outer, now - 2, now - 1, {})
        await traces.close()

        spans = {span.name: span for span in collector.spans}
        assert set(spans) == {"GET /", "outer", "past"}
        assert {span.span.trace_id.hex() for span in collector.spans} == {TRACE}
        assert spans["GET /"].span.parent_span_id.hex() == PARENT
        assert spans["outer"].span.parent_span_id == spans["GET /"].span.span_id
        assert spans["past"].span.parent_span_id == spans["outer"].span.span_id
        assert spans["GET /"].service["service.name"] == "gateway"
        assert spans["outer"].service["service.instance.id"] == "v1"
        assert spans["outer"].attributes == {"quorum.names": ["a", "b"], "quorum.count": 3}
        past = spans["past"].span
        assert past.end_time_unix_nano - past.start_time_unix_nano == pytest.approx(1e9, rel=0.01)

    async def test_a_span_tells_how_it_failed(self, collector: Collector) -> None:
        traces = recorder()
        tracer = traces.tracer("r", "i")
        resume(HEADER)
        with pytest.raises(ValueError, match="no"), tracer.span("failed"):
            raise ValueError("no")
        with pytest.raises(asyncio.CancelledError), tracer.span("cancelled"):
            raise asyncio.CancelledError
        assert current().traceparent == HEADER
        await traces.close()
        failed, cancelled = collector.spans
        assert failed.has_failed
        assert failed.attributes == {"error.type": "ValueError"}
        assert not cancelled.has_failed
        assert cancelled.attributes == {"quorum.is_cancelled": True}

    async def test_what_the_caller_does_not_sample_is_not_recorded(
        self, collector: Collector
    ) -> None:
        traces = recorder()
        tracer = traces.tracer("gateway", "g")
        with tracer.request("GET /", f"00-{TRACE}-{PARENT}-00", {}) as span:
            assert not span
            assert current().traceparent is None
            with tracer.span("inner") as inner:
                assert not inner
        with tracer.span("outside") as outside:
            assert not outside
        tracer.record("past", UNTRACED, 0.0, 1.0, {})
        await traces.close()
        assert collector.spans == []

    @pytest.mark.parametrize("header", [None, "", "nonsense", f"00-{'0' * 32}-{PARENT}-01"])
    async def test_without_a_callers_trace_one_begins(
        self, collector: Collector, header: str | None
    ) -> None:
        traces = recorder()
        with traces.tracer("gateway", "g").request("GET /", header, {}) as span:
            assert span
        await traces.close()
        (received,) = collector.spans
        assert received.span.parent_span_id == b""

    async def test_the_samplers_variable_is_heeded(
        self, collector: Collector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
        traces = recorder()
        tracer = traces.tracer("gateway", "g")
        with tracer.request("begun here", None, {}), tracer.request("sampled", HEADER, {}):
            pass
        await traces.close()
        assert [span.name for span in collector.spans] == ["sampled"]


class TestTrouble:
    async def test_what_the_queue_has_no_room_for_is_counted(
        self, collector: Collector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
        collector.gate.clear()
        lost, taken = dropped("queue"), tracing.EXPORTED._value.get()
        traces = recorder()
        tracer = traces.tracer("r", "i")
        for _ in range(20):
            tracer.record("span", Span(HEADER), 0.0, 1.0, {})
        async with asyncio.timeout(10):
            await collector.arrived.wait()
        assert dropped("queue") == lost + 12
        collector.gate.set()
        await traces.close()
        assert tracing.EXPORTED._value.get() == taken + 8
        assert len(collector.spans) == 8

    async def test_a_collector_that_is_away_costs_spans_only_and_is_told_once(
        self,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        unused_tcp_port: int,
    ) -> None:
        monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{unused_tcp_port}")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
        lost = dropped("collector")
        traces = recorder()
        tracer = traces.tracer("r", "i")
        for _ in range(30):
            tracer.record("span", Span(HEADER), 0.0, 1.0, {})
        started = time.monotonic()
        with caplog.at_level(logging.INFO):
            await traces.close()
        assert time.monotonic() - started < 10
        assert dropped("collector") == lost + 30
        told = [record.getMessage() for record in caplog.records]
        assert told == [f"the collector takes no traces ({ENDPOINT})"]

    def test_another_protocol_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="OTLP_PROTOCOL=grpc"):
            recorder({ENDPOINT: "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})

    def test_settings_that_do_not_go_together_are_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1")
        with pytest.raises(ConfigError, match="OTEL_"):
            recorder()

    def test_without_the_extra_it_says_so_and_goes_on(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setitem(sys.modules, "shared.open_telemetry", None)
        assert type(recorder({ENDPOINT: "http://c"})) is Recorder
        assert "extra `otel`" in caplog.text


class TestOff:
    @pytest.mark.parametrize(
        "environment",
        [
            {},
            {ENDPOINT: ""},
            {ENDPOINT: "http://c", "OTEL_SDK_DISABLED": "true"},
            {ENDPOINT: "http://c", "OTEL_TRACES_EXPORTER": "none"},
        ],
    )
    async def test_nothing_is_recorded(self, environment: dict[str, str]) -> None:
        traces = recorder(environment)
        tracer = traces.tracer("gateway", "g")
        resume(HEADER)
        with tracer.request("GET /", HEADER, {}) as outer, tracer.span("inner") as inner:
            assert not outer
            assert not inner
            assert current().traceparent == HEADER  # passed on, for others may record
        await traces.close()

    def test_opentelemetry_is_not_imported(self) -> None:
        program = (
            "import sys, services.__main__\n"
            "from shared.tracing import recorder\n"
            "recorder()\n"
            "print([name for name in sys.modules if name.startswith('opentelemetry')])"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env={}, capture_output=True, text=True
        )
        assert done.stdout == "[]\n", done.stderr
