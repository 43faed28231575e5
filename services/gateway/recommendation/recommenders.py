"""The recommenders of one model, as the gateway asks them: by names or by tensors, from admission
to the terminal message, and what they serve."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from services.gateway.admission import Admission
from services.gateway.config import GatewayConfig
from services.gateway.errors import NotFoundError
from services.gateway.generation import DeadlineError, raise_failed
from services.gateway.recommendation.descriptions import (
    Described,
    Descriptions,
    version_at,
    versions_of,
)
from services.gateway.replies import Replies, Terminal
from shared.bus.base import Bus, Instance
from shared.codec import MAX_MESSAGE_BYTES
from shared.errors import OversizeError, UnavailableError
from shared.messages import Failed, RecommendRequest, Scores
from shared.registry import Registry
from shared.tensor_messages import Outputs, ScoreRequest, Tensor, WriteRows, Written
from shared.topics import Topic, recommend_requests, score_requests, write_requests

T = TypeVar("T")
Asked = RecommendRequest | ScoreRequest | WriteRows
MAX_TRIES = 50
"""To find an instance of the wanted version, where a fleet that changes over has others, too."""
MAX_PAUSE_S = 0.02
"""Between two of them, by chance: who tries in step is answered by the same instance each time."""


class Recommenders:
    """Those of GATEWAY_RECOMMENDER."""

    def __init__(
        self,
        config: GatewayConfig,
        bus: Bus,
        registry: Registry,
        inbox: str,
        admission: Admission,
        replies: Replies,
        descriptions: Descriptions,
    ) -> None:
        self.model = config.recommender
        self._max_timeout_s = config.request_timeout_s
        self._bus = bus
        self._registry = registry
        self._inbox = inbox
        self._admission = admission
        self._replies = replies
        self._descriptions = descriptions

    def require_model(self, name: str | None) -> None:
        """Raises NotFoundError for any other model."""
        if name not in (None, self.model):
            raise NotFoundError(f"model {name[:100]!r} does not exist; there is {self.model}")

    async def recommend(
        self,
        context: Mapping[str, Sequence[str]],
        candidates: Sequence[str] | None,
        k: int,
        *,
        version: str | None = None,
        timeout_s: float | None = None,
    ) -> Scores:
        """The best, by name. Raises QuorumErrors."""
        given = {key: list(values) for key, values in context.items()}
        named = None if candidates is None else list(candidates)

        def make(request_id: str, deadline: float) -> Asked:
            return RecommendRequest(request_id, self._inbox, given, named, k, deadline, version)

        return await self._answered(Scores, make, version, timeout_s)

    async def score(
        self,
        inputs: Mapping[str, Tensor],
        *,
        is_typed: bool,
        version: str | None = None,
        timeout_s: float | None = None,
    ) -> Outputs:
        """What the model says of each item. Raises QuorumErrors."""
        given = dict(inputs)

        def make(request_id: str, deadline: float) -> Asked:
            return ScoreRequest(request_id, self._inbox, given, is_typed, version, deadline)

        return await self._answered(Outputs, make, version, timeout_s)

    async def write(
        self,
        table: str,
        rows: Tensor,
        values: Tensor,
        *,
        version: str | None = None,
        timeout_s: float | None = None,
    ) -> Written:
        """New rows of a table, in all replicas of a version. Raises QuorumErrors."""

        def make(request_id: str, deadline: float) -> Asked:
            return WriteRows(request_id, self._inbox, table, rows, values, version, deadline)

        return await self._answered(Written, make, version, timeout_s)

    async def describe(self, version: str | None = None) -> Described:
        """Inputs, outputs and plan. Raises NotFoundError and UnavailableError."""
        return await self._descriptions.of(await self.instances(version), version)

    async def instances(self, version: str | None = None) -> list[Instance]:
        """Those that serve the version. Raises NotFoundError and UnavailableError."""
        await self._registry.require("recommender", self.model)
        found = self._serving(version)
        if not found:
            await self._registry.refresh()  # it may just have started
            found = self._serving(version)
        if not found:
            raise NotFoundError(
                f"{self.model} has no version {version!r}; there is {', '.join(self.versions())}"
            )
        return found

    def versions(self) -> list[str]:
        """Those that are served now."""
        live = self._registry.live("recommender", self.model)
        return sorted({version for i in live for version in versions_of(i)})

    def _serving(self, version: str | None) -> list[Instance]:
        live = self._registry.live("recommender", self.model)
        return [i for i in live if version_at(i, version) is not None]

    def _timeout_s(self, wanted: float | None) -> float:
        return min(wanted or self._max_timeout_s, self._max_timeout_s)

    def _deadline(self, timeout_s: float | None) -> float:
        return self._bus.now() + self._timeout_s(timeout_s)

    async def _answered(
        self,
        kind: type[T],
        make: Callable[[str, float], Asked],
        version: str | None,
        timeout_s: float | None,
    ) -> T:
        """Asks again where an instance with other versions has taken the request."""
        for _ in range(MAX_TRIES):
            await self.instances(version)
            request = make(uuid.uuid4().hex, self._deadline(timeout_s))
            answer = await self._ask(request, timeout_s)
            if not (isinstance(answer, Failed) and answer.code == NotFoundError.code):
                return _expect(kind, answer)
            await asyncio.sleep(random.uniform(0, MAX_PAUSE_S))
        raise UnavailableError(f"version {version} is hard to reach among others; try again")

    async def _ask(self, request: Asked, timeout_s: float | None) -> Terminal:
        """The terminal message."""
        timeout_s = self._timeout_s(timeout_s)
        topic = topic_of(self.model, request)
        with self._admission.enter(1), self._replies.waiting(request, topic) as waiter:
            try:
                await self._bus.publish(topic, request)
                return await self._replies.end(waiter, timeout_s)
            except OversizeError as error:
                raise OversizeError(
                    f"the request is too large: more than the {MAX_MESSAGE_BYTES} bytes that a "
                    "message carries"
                ) from error
            except TimeoutError as error:
                raise DeadlineError(f"no answer within {timeout_s:g} s") from error


def topic_of(model: str, request: Asked) -> Topic[Any]:
    """Where the recommenders of a model take requests of its kind."""
    match request:
        case RecommendRequest():
            return recommend_requests(model)
        case ScoreRequest():
            return score_requests(model)
        case WriteRows():
            return write_requests(model)


def _expect(kind: type[T], answer: Terminal) -> T:
    if isinstance(answer, kind):
        return answer
    if isinstance(answer, Failed):
        raise_failed(answer)
    raise UnavailableError("the request was cancelled by the server")
