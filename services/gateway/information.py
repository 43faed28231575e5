"""The routes that say what is served, and within which limits."""

from __future__ import annotations

from collections import Counter

from aiohttp import web

from services.gateway.config import GatewayConfig
from services.gateway.errors import NotFoundError
from services.gateway.responses import Json
from services.gateway.targets import Targets
from services.gateway.text import TextModel
from shared.registry import Registry

VERSION = "0.1.0"
"""Of Quorum, as pyproject.toml has it."""
ROLES = ("gateway", "verifier", "voter", "drafter", "recommender")


class InformationRoutes:
    """Models, live instances, limits."""

    def __init__(self, config: GatewayConfig, targets: Targets, registry: Registry) -> None:
        self._config = config
        self._targets = targets
        self._registry = registry

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/v1/models/{model:.+}", self.model)
        app.router.add_get("/v1/info", self.info)

    async def models(self, _: web.Request) -> web.Response:
        """The target models with their live draft models, and the recommenders."""
        return web.json_response({"object": "list", "data": self._models()})

    async def model(self, request: web.Request) -> web.Response:
        """One of them."""
        wanted = request.match_info["model"]
        known = {str(entry["id"]): entry for entry in self._models()}
        if wanted not in known:
            there = ", ".join(known)
            raise NotFoundError(f"model {wanted[:100]!r} does not exist; there is {there}")
        return web.json_response(known[wanted])

    async def info(self, _: web.Request) -> web.Response:
        """What a client or an operator may want to know before the first request."""
        config, targets = self._config, [_described(text) for text in self._targets.all]
        live = [i for role in ROLES for i in self._registry.live(role)]
        counts = {role: Counter(i.name for i in live if i.role == role) for role in ROLES}
        return web.json_response(
            {
                "object": "info",
                "version": VERSION,
                "model": targets[0] if targets else None,
                "models": targets,
                "recommender": config.recommender,
                "instances": {role: dict(sorted(own.items())) for role, own in counts.items()},
                "limits": {
                    "max_body_bytes": config.max_body_bytes,
                    "max_choices": config.max_choices,
                    "max_in_flight": config.max_in_flight,
                    "max_completion_tokens": config.max_completion_tokens,
                    "request_timeout_s": config.request_timeout_s,
                },
            }
        )

    def _models(self) -> list[Json]:
        entry = {"object": "model", "created": 0, "owned_by": "quorum"}
        targets = [{**entry, **self._target(text)} for text in self._targets.all]
        recommenders = sorted({i.name for i in self._registry.live("recommender")})
        return [*targets, *({**entry, "id": i, "kind": "recommender"} for i in recommenders)]

    def _target(self, text: TextModel) -> Json:
        name = text.manifest.name
        return {
            "id": name,
            "max_model_len": text.manifest.max_context,
            "drafters": sorted({i.name for i in self._registry.drafters(name, text.vocabulary)}),
            "verifiers": len(self._registry.live("verifier", name)),
        }


def _described(text: TextModel) -> Json:
    manifest = text.manifest
    return {
        "id": manifest.name,
        "max_model_len": manifest.max_context,
        "vocab_size": manifest.vocab_size,
        "eos_token_ids": manifest.eos_token_ids,
        "has_chat_template": text.has_template,
    }
