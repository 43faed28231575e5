"""The routes of KServe's inference protocol, v2, for the recommenders; errors.py shapes errors."""

from __future__ import annotations

import asyncio

from aiohttp import web

from services.gateway.information import VERSION
from services.gateway.recommendation.descriptions import DescribedTensor
from services.gateway.recommendation.inference import (
    DATATYPES,
    HEADER,
    read_inference,
    write_inference,
)
from services.gateway.recommendation.recommenders import Recommenders
from services.gateway.responses import Json
from services.gateway.timeouts import timeout_of
from shared.codec import MAX_MESSAGE_BYTES
from shared.errors import UnavailableError

PLATFORM = "quorum"
EXTENSIONS = ["binary_tensor_data"]


class KServeRoutes:
    """Health, metadata and inference."""

    def __init__(
        self, recommenders: Recommenders, max_json_bytes: int, draining: asyncio.Event
    ) -> None:
        self._recommenders = recommenders
        self._max_json_bytes = max_json_bytes
        self._draining = draining

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/v2", self.server)
        app.router.add_get("/v2/health/live", self.live)
        app.router.add_get("/v2/health/ready", self.ready)
        for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            app.router.add_get(model, self.model)
            app.router.add_get(f"{model}/ready", self.model_ready)
            app.router.add_post(f"{model}/infer", self.infer)

    async def server(self, _: web.Request) -> web.Response:
        return web.json_response({"name": "quorum", "version": VERSION, "extensions": EXTENSIONS})

    async def live(self, _: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def ready(self, _: web.Request) -> web.Response:
        """Ready when the recommender is, and no drain has begun."""
        is_ready = bool(self._recommenders.versions()) and not self._draining.is_set()
        return web.json_response({"ready": is_ready}, status=200 if is_ready else 503)

    async def model(self, request: web.Request) -> web.Response:
        """What the model takes and answers."""
        described = await self._recommenders.describe(self._version(request))
        return web.json_response(
            {
                "name": described.model,
                "versions": self._recommenders.versions(),
                "platform": PLATFORM,
                "inputs": [_tensor(one) for one in described.inputs],
                "outputs": [_tensor(one) for one in described.outputs],
            }
        )

    async def model_ready(self, request: web.Request) -> web.Response:
        """Ready when an instance of that version is live."""
        version = self._version(request)
        try:
            is_ready = bool(await self._recommenders.instances(version))
        except UnavailableError:
            is_ready = False
        body = {"name": self._recommenders.model, "ready": is_ready}
        return web.json_response(body, status=200 if is_ready else 503)

    async def infer(self, request: web.Request) -> web.Response:
        """Tensors in, the dense graph's outputs out."""
        version = self._version(request)
        header = request.headers.get(HEADER)
        if header is not None:  # bytes follow the JSON, as many as a message carries
            request = request.clone(client_max_size=MAX_MESSAGE_BYTES)
        data = await request.read()
        wanted, inputs = read_inference(data, header, self._max_json_bytes)
        answer = await self._recommenders.score(
            inputs,
            is_typed=True,
            version=version,
            timeout_s=timeout_of(request, wanted.timeout_s),
        )
        body, length = write_inference(self._recommenders.model, wanted, answer)
        if length is None:
            return web.Response(body=body, content_type="application/json")
        headers = {HEADER: str(length)}
        return web.Response(body=body, content_type="application/octet-stream", headers=headers)

    def _version(self, request: web.Request) -> str | None:
        """The version in the path; the model there must be ours."""
        self._recommenders.require_model(request.match_info["model"])
        return request.match_info.get("version")


def _tensor(described: DescribedTensor) -> Json:
    return {
        "name": described.name,
        "datatype": DATATYPES.get(described.dtype, described.dtype),
        "shape": described.shape,
    }
