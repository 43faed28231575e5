"""Traces of requests across processes: what code sees of them, and nothing where they are off.

A trace begins at the gateway, if it is sampled, and travels in the envelope of each message
(codec.py); whoever handles a message works within `current()`. OpenTelemetry (open_telemetry.py)
is imported only where the environment names a collector.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token

from prometheus_client import Counter

from shared.errors import ConfigError

logger = logging.getLogger(__name__)

Value = str | bool | int | float | Sequence[str]

EXPORTED = Counter("trace_spans_exported", "Spans that the collector took")
DROPPED = Counter(
    "trace_spans_dropped",
    "Spans that were lost: the collector did not take them, or took too long",
    ["reason"],
)
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HEADER = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Span:
    """A piece of work in a trace. True if it is recorded in this process; this one is not."""

    __slots__ = ("traceparent",)

    def __init__(self, traceparent: str | None = None) -> None:
        self.traceparent = traceparent
        """As W3C's header has it; None outside of any trace that is sampled."""

    def __bool__(self) -> bool:
        return False

    def set(self, attributes: Mapping[str, Value]) -> None:
        """Adds to what is told of it."""

    def fail(self, kind: str) -> None:
        """Marks it as gone wrong."""


class Tracer:
    """Records the spans of one service; this one records none."""

    def request(
        self, name: str, traceparent: str | None, attributes: Mapping[str, Value]
    ) -> AbstractContextManager[Span]:
        """The work on a request from outside: part of the caller's trace, if a header names one,
        or the beginning of one, if it is sampled."""
        return _NOTHING

    def span(self, name: str) -> AbstractContextManager[Span]:
        """Work within the current span; nothing outside of a trace."""
        return _NOTHING

    def record(
        self,
        name: str,
        parent: Span,
        started: float,
        ended: float,
        attributes: Mapping[str, Value],
    ) -> None:
        """Work that is over, between two times of `time.perf_counter`."""


class Recorder:
    """Makes the tracers of a process and delivers what they record; this one has nothing to."""

    def tracer(self, role: str, instance_id: str) -> Tracer:
        """The tracer of one service."""
        return OFF

    async def close(self) -> None:
        """Delivers what is left, as far as that takes no more than a few seconds."""


UNTRACED = Span()
_NOTHING = nullcontext(UNTRACED)
OFF = Tracer()
_current: ContextVar[Span] = ContextVar("span", default=UNTRACED)


def current() -> Span:
    """What is being worked on here."""
    return _current.get()


def set_current(span: Span) -> Token[Span]:
    """For tracers: what `reset_current` takes."""
    return _current.set(span)


def reset_current(token: Token[Span]) -> None:
    """For tracers: what was current before is so again."""
    _current.reset(token)


def resume(traceparent: str | None) -> None:
    """What this task does from now on is part of another process's span, or of none."""
    _current.set(UNTRACED if traceparent is None else Span(traceparent))


def is_traceparent(text: str) -> bool:
    """Whether it is one as services send it to each other."""
    return _HEADER.fullmatch(text) is not None


def recorder(environ: Mapping[str, str] = os.environ) -> Recorder:
    """What records as OTEL_* variables say. Raises ConfigError for a protocol that it does not
    speak."""
    if not _is_wanted(environ):
        return Recorder()
    for name in _PROTOCOLS:
        if environ.get(name, "http/protobuf") != "http/protobuf":
            raise ConfigError(f"{name}={environ[name]}: traces are sent by http/protobuf only")
    try:
        from shared.open_telemetry import OtlpRecorder
    except ModuleNotFoundError as error:
        logger.warning("no traces: %s; it comes with quorum's extra `otel`", error)
        return Recorder()
    return OtlpRecorder()


def _is_wanted(environ: Mapping[str, str]) -> bool:
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return False
    return any(environ.get(name) for name in _ENDPOINTS)
