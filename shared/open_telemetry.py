"""The recording half of tracing.py, on OpenTelemetry's SDK. Imported only where traces are wanted.

The SDK reads its own OTEL_* variables: sampler, endpoint, headers, batches. Spans are sent in a
thread of its own; what a collector does not take is counted and dropped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.errors import ConfigError
from shared.tracing import (
    DROPPED,
    EXPORTED,
    Recorder,
    Span,
    Tracer,
    Value,
    current,
    reset_current,
    set_current,
)

logger = logging.getLogger(__name__)
FLUSH_S = 3.0
"""Patience at the end of a process with a collector that is away."""


class OtlpRecorder(Recorder):
    """One exporter for all services of a process, each with a resource of its own."""

    def __init__(self) -> None:
        # It repeats itself for each batch while a collector is away; that is said once (below).
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        try:
            self._exporter = CountingExporter(OTLPSpanExporter())
            self._processor = BoundedProcessor(self._exporter)
        except ValueError as error:
            raise ConfigError(f"OTEL_* variables: {error}") from error

    def tracer(self, role: str, instance_id: str) -> Tracer:
        resource = Resource.create(
            {
                "service.namespace": "quorum",
                "service.name": role,
                "service.instance.id": instance_id,
            }
        )
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        return OtelTracer(provider.get_tracer("quorum"))

    async def close(self) -> None:
        delivered = asyncio.create_task(asyncio.to_thread(self._processor.shutdown))
        await asyncio.wait([delivered], timeout=FLUSH_S)
        if not delivered.done():
            self._exporter.give_up()
        await delivered


class CountingExporter(SpanExporter):
    """Counts what becomes of spans, and says when a collector goes away and comes back."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._is_away = False
        self.num_done = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        finally:
            self.num_done += len(spans)
        is_away = result is not SpanExportResult.SUCCESS
        (DROPPED.labels("collector") if is_away else EXPORTED).inc(len(spans))
        if is_away != self._is_away:
            self._is_away = is_away
            if is_away:
                logger.warning("the collector takes no traces (OTEL_EXPORTER_OTLP_ENDPOINT)")
            else:
                logger.info("the collector takes traces again")
        return result

    def give_up(self) -> None:
        """Ends the attempt under way; what is left fails at once."""
        self._exporter.shutdown()

    def shutdown(self) -> None:
        self._exporter.shutdown()


class BoundedProcessor(SpanProcessor):
    """The SDK's batches; what its queue has no room for is counted instead of logged."""

    def __init__(self, exporter: CountingExporter) -> None:
        self._exporter = exporter
        self._most = int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE") or 2048)
        self._batches = BatchSpanProcessor(exporter, self._most)
        self._num_taken = 0

    def on_end(self, span: ReadableSpan) -> None:
        if self._num_taken - self._exporter.num_done >= self._most:
            DROPPED.labels("queue").inc()
            return
        self._num_taken += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        self._batches.shutdown()  # type: ignore[no-untyped-call] # the SDK leaves it untyped


class OtelSpan(Span):
    """A span that is recorded."""

    __slots__ = ("otel",)

    def __init__(self, otel: trace.Span) -> None:
        context = otel.get_span_context()
        super().__init__(
            f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        )
        self.otel = otel

    def __bool__(self) -> bool:
        return True

    def set(self, attributes: Mapping[str, Value]) -> None:
        self.otel.set_attributes(attributes)

    def fail(self, kind: str) -> None:
        self.otel.set_attribute("error.type", kind)
        self.otel.set_status(trace.StatusCode.ERROR)


class OtelTracer(Tracer):
    """Records what is sampled."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    @contextmanager
    def request(
        self, name: str, traceparent: str | None, attributes: Mapping[str, Value]
    ) -> Iterator[Span]:
        headers = {"traceparent": traceparent} if traceparent else {}
        context = TraceContextTextMapPropagator().extract(headers, Context())
        otel = self._tracer.start_span(name, context, trace.SpanKind.SERVER, attributes)
        if not otel.is_recording():
            yield Span()
            return
        with _entered(OtelSpan(otel)) as span:
            yield span

    @contextmanager
    def span(self, name: str) -> Iterator[Span]:
        parent = current()
        if parent.traceparent is None:
            yield parent
            return
        otel = self._tracer.start_span(name, _context(parent))
        if not otel.is_recording():
            yield parent
            return
        with _entered(OtelSpan(otel)) as span:
            yield span

    def record(
        self,
        name: str,
        parent: Span,
        started: float,
        ended: float,
        attributes: Mapping[str, Value],
    ) -> None:
        if parent.traceparent is None:
            return
        epoch_ns = time.time_ns() - time.perf_counter_ns()
        begin_ns, end_ns = (epoch_ns + int(t * 1e9) for t in (started, ended))
        otel = self._tracer.start_span(
            name, _context(parent), attributes=attributes, start_time=begin_ns
        )
        otel.end(end_ns)


@contextmanager
def _entered(span: OtelSpan) -> Iterator[OtelSpan]:
    """The span as the current one, which ends with the body."""
    token = set_current(span)
    try:
        yield span
    except (asyncio.CancelledError, GeneratorExit):
        span.set({"quorum.is_cancelled": True})
        raise
    except BaseException as error:
        span.fail(type(error).__qualname__)
        raise
    finally:
        reset_current(token)
        span.otel.end()


def _context(parent: Span) -> Context:
    """What the SDK takes for a parent."""
    if isinstance(parent, OtelSpan):
        return trace.set_span_in_context(parent.otel, Context())
    return TraceContextTextMapPropagator().extract({"traceparent": parent.traceparent}, Context())
