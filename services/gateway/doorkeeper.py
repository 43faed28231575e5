"""Who may come in: every route but health and pages asks for a key, where there are keys."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from services.gateway import metrics
from services.gateway.errors import ForbiddenError, UnauthorizedError
from services.gateway.keys import Key, Keys, Right
from services.gateway.limits import Meter
from services.gateway.pages import is_page
from shared.errors import OverloadedError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
KEY = web.RequestKey("key", Key)
METER = web.RequestKey("meter", Meter)
"""Of the key that a request came with."""
OPEN = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
MODEL = "/v2/models/{model}"
RIGHTS: dict[str, Right] = {
    "/v1/completions": "generate",
    "/v1/chat/completions": "generate",
    "/tokenize": "generate",
    "/detokenize": "generate",
    "/v1/recommendations": "recommend",
    f"{MODEL}/infer": "recommend",
    f"{MODEL}/versions/{{version}}/infer": "recommend",
    "/v1/recommenders/{model}/rows": "write",
}
"""By path, what a key needs; it counts as a request there. Any key may ask for anything else."""


class Doorkeeper:
    """Checks keys and their limits."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._meters: dict[str, Meter] = {}

    def guard(self, app: web.Application) -> None:
        app.on_response_prepare.append(_tell)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in OPEN or is_page(request.match_info.handler):
            return await handler(request)
        key = request[KEY] = self._key(request)
        resource = request.match_info.route.resource
        needed = RIGHTS.get(resource.canonical) if resource is not None else None
        if needed is None:
            return await handler(request)
        if needed not in key.rights:
            metrics.REJECTIONS.labels("forbidden").inc()
            raise ForbiddenError(f"key {key.name!r} may not {needed}; it may {_all(key.rights)}")
        meter = request[METER] = self._meter(key)
        try:
            with meter.enter():
                return await handler(request)
        except OverloadedError:
            metrics.REJECTIONS.labels("key").inc()
            raise

    def _key(self, request: web.Request) -> Key:
        kind, _, secret = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or not secret:
            metrics.REJECTIONS.labels("unauthorized").inc()
            raise UnauthorizedError("this gateway asks for a key: Authorization: Bearer KEY")
        key = self._keys.find(secret.strip())
        if key is None:
            metrics.REJECTIONS.labels("unauthorized").inc()
            raise UnauthorizedError("this key is not known, or has been revoked")
        return key

    def _meter(self, key: Key) -> Meter:
        """One for each name, new when its limits are."""
        meter = self._meters.get(key.name)
        if meter is None or meter.limits != key.limits:
            meter = self._meters[key.name] = Meter(key.limits, time.monotonic)
        return meter


def _all(rights: tuple[Right, ...]) -> str:
    return " and ".join(rights) or "nothing"


async def _tell(request: web.Request, response: web.StreamResponse) -> None:
    meter = request.get(METER)
    if meter is not None:
        response.headers.update(meter.headers())
