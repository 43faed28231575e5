"""Metrics and health of a process over HTTP, for Prometheus and container health checks.

`/health/live` answers while the loop turns; `/health/ready` only when every service is ready and
none is draining; `/metrics` in the Prometheus text format.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType

from aiohttp import web
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
READY = Gauge("service_ready", "1 when ready, 0 while starting or draining", ["role", "name"])


def render_metrics() -> web.Response:
    """All metrics of this process."""
    return web.Response(
        body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST}
    )


def render_readiness(services: Sequence[Service]) -> web.Response:
    """200 and the state of each service, or 503 naming those that are not ready."""
    states = {s.instance_id: _state(s) for s in services}
    is_ready = all(state == "ready" for state in states.values())
    return web.json_response(
        {"ready": is_ready, "services": states}, status=200 if is_ready else 503
    )


def _state(service: Service) -> str:
    if service.draining.is_set():
        return "draining"
    return "ready" if service.ready.is_set() else "starting"


async def watch_loop() -> None:
    """Measures the event loop's lag until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_INTERVAL_S
        await asyncio.sleep(LAG_INTERVAL_S)  # how much later than that it goes on is what is asked
        LAG.observe(max(0.0, loop.time() - due))


class Monitor:
    """Serves the endpoint while entered; nothing when the port is 0."""

    def __init__(self, config: ProcessConfig, services: Sequence[Service]) -> None:
        self._config = config
        self._services = services
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> None:
        if not self._config.monitor_port:
            return
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/health/live", self._live)
        app.router.add_get("/health/ready", self._ready)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        host, port = self._config.monitor_host, self._config.monitor_port
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(f"QUORUM_MONITOR_PORT={port} on {host}: {error.strerror}") from error

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        for service in self._services:
            READY.labels(service.role, service.name).set(_state(service) == "ready")
        return render_metrics()

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _ready(self, _: web.Request) -> web.Response:
        return render_readiness(self._services)
