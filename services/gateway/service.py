"""The gateway: the REST door of Quorum. Builds the aiohttp application and runs it on the bus."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from functools import partial

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from services.gateway import metrics
from services.gateway.admission import Admission
from services.gateway.bodies import bodies_within
from services.gateway.cancellation import Running
from services.gateway.config import GatewayConfig
from services.gateway.doorkeeper import Doorkeeper
from services.gateway.errors import OursOnly, middleware
from services.gateway.generation import Generator
from services.gateway.information import InformationRoutes
from services.gateway.keys import Keys
from services.gateway.pages import STATIC, add_page
from services.gateway.recommendation.descriptions import Descriptions
from services.gateway.recommendation.kserve import KServeRoutes
from services.gateway.recommendation.recommendations import RecommendationRoutes
from services.gateway.recommendation.recommenders import Recommenders
from services.gateway.reference.documentation import add_documentation
from services.gateway.replies import Replies
from services.gateway.routes import GenerationRoutes
from services.gateway.status import StatusRoute
from services.gateway.tally import Tally
from services.gateway.targets import Targets
from services.gateway.tokenization import TokenizationRoutes
from services.gateway.traces import tracing
from shared.bus.base import Bus
from shared.config import BusConfig
from shared.errors import ConfigError
from shared.gateway_messages import Abort, Aborted
from shared.runner import Part
from shared.served import POLL_S
from shared.service import Service, background
from shared.tensor_messages import Description
from shared.topics import batch_generate_requests, generate_requests
from shared.tracing import OFF

logger = logging.getLogger(__name__)
OURS_ONLY = OursOnly()
KEEPALIVE_S = 75.0
"""A connection that has no request under way is closed after so long: one whose headers never end
as well."""


class GatewayService(Service):
    """Serves HTTP on GATEWAY_HOST and GATEWAY_PORT; `port` is the real one once ready."""

    def __init__(self, config: GatewayConfig, bus: Bus, bus_config: BusConfig) -> None:
        super().__init__("gateway", config.model.name, bus, bus_config)
        self._config = config
        self._targets = Targets(config.model)
        self._replies = Replies(bus, config.silence_s)
        self._running = Running(bus, self.registry, self.instance_id)
        self._descriptions = Descriptions(bus, self.registry, self.instance_id)
        self._admission = Admission(config.max_in_flight)
        self._tally = Tally()
        self._keys: Keys | None = None
        self.port = config.port

    async def load(self) -> None:
        await self._targets.load()
        if self._config.keys is not None:
            self._keys = Keys(self._config.keys)

    async def serve(self) -> None:
        """Listens until drained: new requests are refused, those in flight end."""
        self._count_waiting(self._targets.names)
        app = self._application()
        http_logger = logging.getLogger(f"{__name__}.http")
        http_logger.addFilter(OURS_ONLY)
        runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=KEEPALIVE_S,
            logger=http_logger,
        )
        await runner.setup()
        try:
            async with self.inbox(self._receive), background(self._follow_targets()):
                await self._listen(runner)
                await self.announce({"port": str(self.port)})
                await self.draining.wait()
                await self._admission.close()
        finally:
            await runner.cleanup()

    def _application(self) -> web.Application:
        doorkeeper = None if self._keys is None else Doorkeeper(self._keys)
        app = web.Application(
            middlewares=[
                *([tracing(self.tracer)] if self.tracer is not OFF else ()),
                middleware,
                bodies_within(self._config.body_timeout_s),
                *([doorkeeper.middleware] if doorkeeper else ()),
            ],
            client_max_size=self._config.max_body_bytes,
        )
        if doorkeeper is not None:
            doorkeeper.guard(app)
        generator = Generator(self.bus, self.registry, self.instance_id, self._replies, self._tally)
        GenerationRoutes(
            self._config, self._targets, generator, self._admission, self.registry, self._running
        ).add_to(app)
        self._running.add_to(app)
        InformationRoutes(self._config, self._targets, self.registry).add_to(app)
        StatusRoute(
            self._targets,
            self._config.recommender,
            self.bus,
            self.registry,
            self._admission,
            self._tally,
        ).add_to(app)
        TokenizationRoutes(self._targets).add_to(app)
        recommenders = Recommenders(
            self._config,
            self.bus,
            self.registry,
            self.instance_id,
            self._admission,
            self._replies,
            self._descriptions,
        )
        RecommendationRoutes(recommenders).add_to(app)
        KServeRoutes(recommenders, self._config.max_body_bytes, self.draining).add_to(app)
        add_documentation(app)
        add_page(app, "/", STATIC / "console")
        app.router.add_get("/health/live", self._live)
        app.router.add_get("/health/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        return app

    async def _listen(self, runner: web.AppRunner) -> None:
        site = web.TCPSite(runner, self._config.host, self._config.port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(
                f"GATEWAY_PORT={self._config.port} on {self._config.host} cannot be used: "
                f"{error.strerror or error}"
            ) from error
        self.port = runner.addresses[0][1]

    async def _follow_targets(self) -> None:
        """Models come and go while requests are served."""
        while True:
            await asyncio.sleep(POLL_S)
            before = self._targets.names
            await self._targets.refresh()
            for name in set(before) - set(self._targets.names):
                metrics.REQUESTS_WAITING.remove(name)
            self._count_waiting(set(self._targets.names) - set(before))

    def _count_waiting(self, models: Iterable[str]) -> None:
        """Read when it is asked for."""
        for model in models:
            topics = generate_requests(model), batch_generate_requests(model)
            count = partial(self._replies.num_waiting, *topics)
            metrics.REQUESTS_WAITING.labels(model).set_function(count)

    async def _receive(self, message: object) -> None:
        if isinstance(message, Description):
            self._descriptions.receive(message)
        elif isinstance(message, Abort | Aborted):
            await self._running.receive(message)
        else:
            await self._replies.receive(message)

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _ready(self, _: web.Request) -> web.Response:
        """Ready when something can be served and no drain has begun."""
        serving = {
            "generation": any(self.registry.live("verifier", n) for n in self._targets.names),
            "recommendation": bool(self.registry.live("recommender", self._config.recommender)),
        }
        is_ready = any(serving.values()) and not self.draining.is_set()
        body = {"ready": is_ready, "draining": self.draining.is_set(), **serving}
        return web.json_response(body, status=200 if is_ready else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        page = generate_latest(REGISTRY)
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})


def build(config: GatewayConfig, bus: Bus, bus_config: BusConfig) -> list[Service]:
    """One gateway."""
    return [GatewayService(config, bus, bus_config)]


PART = Part("gateway", GatewayConfig, build)
