"""GET /v1/status: who is live, what waits, and what this gateway's requests added up to."""

from __future__ import annotations

import time
from dataclasses import asdict

from aiohttp import web

from services.gateway.admission import Admission
from services.gateway.information import ROLES
from services.gateway.responses import Json
from services.gateway.tally import Tally
from services.gateway.targets import Targets
from shared.bus.base import Bus
from shared.registry import Registry
from shared.topics import (
    batch_generate_requests,
    generate_requests,
    recommend_requests,
    score_requests,
)


class StatusRoute:
    """For consoles and `python -m services.cli top`, which look again and again. Counts are this
    gateway's own; instances and queues are everybody's."""

    def __init__(
        self,
        targets: Targets,
        recommender: str,
        bus: Bus,
        registry: Registry,
        admission: Admission,
        tally: Tally,
    ) -> None:
        self._targets = targets
        self._recommender = recommender
        self._bus = bus
        self._registry = registry
        self._admission = admission
        self._tally = tally

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/v1/status", self.status)

    async def status(self, _: web.Request) -> web.Response:
        """How things stand."""
        live = [instance for role in ROLES for instance in self._registry.live(role)]
        body: Json = {
            "object": "status",
            "model": next(iter(self._targets.names), None),
            "time": time.time(),
            "in_flight": self._admission.num_in_flight,
            "queues": await self._queues(),
            "instances": [
                {
                    "id": instance.instance_id,
                    "role": instance.role,
                    "name": instance.name,
                    "attributes": dict(instance.attributes),
                }
                for instance in live
            ],
            "drafters": {
                name: {**asdict(drafter), "acceptance": drafter.acceptance}
                for name, drafter in sorted(self._tally.drafters.items())
            },
            "totals": asdict(self._tally.totals),
        }
        return web.json_response(body)

    async def _queues(self) -> dict[str, int]:
        """How many requests of each kind nobody has taken yet."""
        by_names = await self._bus.lag(recommend_requests(self._recommender))
        by_tensors = await self._bus.lag(score_requests(self._recommender))
        topics = [
            topic(name)
            for name in self._targets.names
            for topic in (generate_requests, batch_generate_requests)
        ]
        waiting = [await self._bus.lag(topic) for topic in topics]
        return {"generate": sum(waiting), "recommend": by_names + by_tensors}
