"""Metrics and health of a process over HTTP, for Prometheus and container health checks.

`/health/live` answers while the loop turns; `/health/ready` only when every service is ready and
none is draining; `/metrics` in the Prometheus text format.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from http import HTTPStatus
from types import TracebackType

import h11
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Gauge, Histogram, generate_latest

from shared.config import ProcessConfig
from shared.errors import ConfigError
from shared.service import Service

LAG = Histogram(
    "event_loop_lag_seconds",
    "How late the event loop comes to what it is to do",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0),
)
LAG_INTERVAL_S = 0.1
MAX_REQUEST = 16 << 10
"""Bytes of a request's head."""
PATIENCE_S = 5.0
READY = Gauge("service_ready", "1 when ready, 0 while starting or draining", ["role", "name"])


def _state(service: Service) -> str:
    if service.draining.is_set():
        return "draining"
    return "ready" if service.ready.is_set() else "starting"


async def watch_loop() -> None:
    """Measures the event loop's lag until cancelled."""
    while True:
        due = time.monotonic() + LAG_INTERVAL_S
        await asyncio.sleep(LAG_INTERVAL_S)  # how much later than that it goes on is what is asked
        LAG.observe(max(0.0, time.monotonic() - due))


class Monitor:
    """Serves the endpoint while entered; nothing when the port is 0. One request a connection: a
    whole web framework would be a fifth of what a service loads."""

    def __init__(self, config: ProcessConfig, services: Sequence[Service]) -> None:
        self._config = config
        self._services = services
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> None:
        if not self._config.monitor_port:
            return
        host, port = self._config.monitor_host, self._config.monitor_port
        try:
            self._server = await asyncio.start_server(self._serve, host, port)
        except OSError as error:
            raise ConfigError(f"QUORUM_MONITOR_PORT={port} on {host}: {error.strerror}") from error

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST)
        try:
            async with asyncio.timeout(PATIENCE_S):
                request = await _request(connection, reader)
                if request is not None:
                    writer.write(_response(connection, *self._answer(request)))
                    await writer.drain()
        except h11.RemoteProtocolError as error:
            refusal = (HTTPStatus(error.error_status_hint), "text/plain", f"{error}\n".encode())
            writer.write(_response(connection, *refusal))
        except (TimeoutError, ConnectionError):
            pass  # whoever asked is gone, or too slow to be answered
        finally:
            writer.close()

    def _answer(self, request: h11.Request) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and body."""
        path = request.target.partition(b"?")[0]
        if request.method != b"GET":
            return HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"only GET is allowed\n"
        if path == b"/metrics":
            READY.clear()
            for service in (member for each in self._services for member in each.members()):
                READY.labels(service.role, service.name).set(_state(service) == "ready")
            return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(REGISTRY)
        if path == b"/health/live":
            return HTTPStatus.OK, "application/json", json.dumps({"live": True}).encode()
        if path == b"/health/ready":
            states = {s.instance_id: _state(s) for s in self._services}
            is_ready = all(state == "ready" for state in states.values())
            body = json.dumps({"ready": is_ready, "services": states}).encode()
            status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
            return status, "application/json", body
        known = b"/metrics, /health/live, /health/ready"
        return HTTPStatus.NOT_FOUND, "text/plain", b"nothing here; there are " + known + b"\n"


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The request's head; None if the other side closes before. Raises h11.RemoteProtocolError."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        connection.receive_data(await reader.read(MAX_REQUEST))


def _response(
    connection: h11.Connection, status: HTTPStatus, content_type: str, body: bytes
) -> bytes:
    headers = [
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
    ]
    head = h11.Response(status_code=status, reason=status.phrase.encode(), headers=headers)
    events = (head, h11.Data(data=body), h11.EndOfMessage())
    return b"".join(connection.send(event) or b"" for event in events)
