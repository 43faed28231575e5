"""The gateway: the REST door of Quorum. Builds the aiohttp application and runs it on the bus."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from services.gateway.admission import Admission
from services.gateway.config import GatewayConfig
from services.gateway.descriptions import Descriptions
from services.gateway.doorkeeper import Doorkeeper
from services.gateway.errors import middleware
from services.gateway.generation import Generator
from services.gateway.information import InformationRoutes
from services.gateway.keys import Keys
from services.gateway.kserve import KServeRoutes
from services.gateway.recommendations import RecommendationRoutes
from services.gateway.recommenders import Recommenders, lag, publish
from services.gateway.replies import Replies, Request
from services.gateway.routes import GenerationRoutes
from services.gateway.text import TextModel
from services.gateway.tokenization import TokenizationRoutes
from shared.bus.base import Bus
from shared.config import BusConfig
from shared.errors import ConfigError
from shared.messages import GenerateRequest
from shared.runner import Part
from shared.service import Service, background
from shared.tensor_messages import Description
from shared.topics import generate_requests

logger = logging.getLogger(__name__)


class GatewayService(Service):
    """Serves HTTP on GATEWAY_HOST and GATEWAY_PORT; `port` is the real one once ready."""

    def __init__(self, config: GatewayConfig, bus: Bus, bus_config: BusConfig) -> None:
        super().__init__("gateway", config.model.name, bus, bus_config)
        self._config = config
        self._text: TextModel
        self._replies = Replies(bus, self._publish, self._is_queued, config.silence_s)
        self._descriptions = Descriptions(bus, self.registry, self.instance_id)
        self._admission = Admission(config.max_in_flight)
        self._keys: Keys | None = None
        self.port = config.port

    async def load(self) -> None:
        self._text = await asyncio.to_thread(TextModel, self._config.model)
        if self._config.keys is not None:
            self._keys = Keys(self._config.keys)

    async def serve(self) -> None:
        """Listens until drained: new requests are refused, those in flight end."""
        app = self._application()
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        try:
            async with background(self.read_inbox(self._receive)):
                await self._listen(runner)
                await self.announce({"port": str(self.port)})
                await self.draining.wait()
                await self._admission.close()
        finally:
            await runner.cleanup()

    def _application(self) -> web.Application:
        doorkeeper = None if self._keys is None else Doorkeeper(self._keys)
        app = web.Application(
            middlewares=[middleware, *([doorkeeper.middleware] if doorkeeper else ())],
            client_max_size=self._config.max_body_bytes,
        )
        if doorkeeper is not None:
            doorkeeper.guard(app)
        generator = Generator(self.bus, self.registry, self.instance_id, self._text, self._replies)
        GenerationRoutes(self._config, self._text, generator, self._admission).add_to(app)
        InformationRoutes(self._config, self._text, self.registry).add_to(app)
        TokenizationRoutes(self._text).add_to(app)
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

    async def _receive(self, message: object) -> None:
        if isinstance(message, Description):
            self._descriptions.receive(message)
        else:
            await self._replies.receive(message)

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _ready(self, _: web.Request) -> web.Response:
        """Ready when something can be served and no drain has begun."""
        serving = {
            "generation": bool(self.registry.live("verifier", self._text.manifest.name)),
            "recommendation": bool(self.registry.live("recommender", self._config.recommender)),
        }
        is_ready = any(serving.values()) and not self.draining.is_set()
        body = {"ready": is_ready, "draining": self.draining.is_set(), **serving}
        return web.json_response(body, status=200 if is_ready else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        page = generate_latest(REGISTRY)
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _publish(self, request: Request) -> None:
        if isinstance(request, GenerateRequest):
            await self.bus.publish(generate_requests(self._text.manifest.name), request)
        else:
            await publish(self.bus, self._config.recommender, request)

    async def _is_queued(self, request: Request) -> bool:
        """Whether requests of this kind wait for a consumer: silence is then no sign of loss."""
        if isinstance(request, GenerateRequest):
            return await self.bus.lag(generate_requests(self._text.manifest.name)) > 0
        return await lag(self.bus, self._config.recommender, request) > 0


def build(config: GatewayConfig, bus: Bus, bus_config: BusConfig) -> list[Service]:
    """One gateway."""
    return [GatewayService(config, bus, bus_config)]


PART = Part("gateway", GatewayConfig, build)
