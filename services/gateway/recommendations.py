"""The routes of recommendation: names or tensors in, scores out, as JSON or as msgpack."""

from __future__ import annotations

from aiohttp import web
from pydantic import Field

from services.gateway import responses
from services.gateway.recommenders import Recommenders
from services.gateway.responses import Json
from services.gateway.schemas import Body, RecommendBody, check, parse
from services.gateway.tensors import best, floats_of, from_lists
from shared.codec import MAX_MESSAGE_BYTES, pack, unpack
from shared.errors import InvalidRequestError, MalformedError
from shared.tensor_messages import Outputs, Tensor

MSGPACK = ("application/msgpack", "application/x-msgpack")
DEFAULT_K = 10


class PackedTensor(Body):
    """An input as bytes, little-endian in C order."""

    dtype: str
    shape: list[int] = Field(max_length=8)
    data: bytes


class RecommendationRoutes:
    """Recommendations, and the plan that their tables are stored by."""

    def __init__(self, recommenders: Recommenders) -> None:
        self._recommenders = recommenders

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/v1/recommendations", self.recommend)
        app.router.add_get("/v1/recommenders/{model}/plan", self.plan)

    async def recommend(self, request: web.Request) -> web.Response:
        """The best of names, or what the items of tensors score."""
        body = await _read(request)
        self._recommenders.require_model(body.model)
        answer = await (self._by_names(body) if body.inputs is None else self._by_tensors(body))
        return _response(request, answer)

    async def plan(self, request: web.Request) -> web.Response:
        """Where each table is stored, and why."""
        self._recommenders.require_model(request.match_info["model"])
        described = await self._recommenders.describe()
        head: Json = {"object": "plan", "model": described.model, "version": described.version}
        return _response(request, {**head, **described.plan})

    async def _by_names(self, body: RecommendBody) -> Json:
        scores = await self._recommenders.recommend(
            body.context, body.candidates, body.k or DEFAULT_K, body.timeout
        )
        return responses.recommendations(self._recommenders.model, scores)

    async def _by_tensors(self, body: RecommendBody) -> Json:
        if body.context or body.candidates is not None:
            raise InvalidRequestError(
                "inputs are numbers; context and candidates are names: send one or the other",
                "inputs",
            )
        inputs = body.inputs or {}
        outputs = await self._recommenders.score(
            {name: _tensor(name, value) for name, value in inputs.items()},
            is_typed=all(isinstance(value, dict) for value in inputs.values()),
            timeout_s=body.timeout,
        )
        scores = _scores(outputs)
        places = None if body.k is None else best(scores, body.k)
        return responses.scored(self._recommenders.model, outputs.version, scores, places)


async def _read(request: web.Request) -> RecommendBody:
    """JSON, unless the content is said to be msgpack, which may be as long as a message."""
    if request.content_type not in MSGPACK:
        return parse(RecommendBody, await request.read())
    data = await request.clone(client_max_size=MAX_MESSAGE_BYTES).read()
    try:
        content = unpack(data)
    except MalformedError as error:
        raise InvalidRequestError(f"the body is not msgpack: {error}") from error
    return check(RecommendBody, content)


def _response(request: web.Request, answer: Json) -> web.Response:
    """msgpack where Accept names it, and JSON not before it."""
    accepted = [part.split(";")[0].strip() for part in request.headers.get("Accept", "").split(",")]
    wanted = next((kind for kind in accepted if kind in (*MSGPACK, "application/json")), None)
    if wanted in MSGPACK:
        return web.Response(body=pack(answer), content_type=wanted)
    return web.json_response(answer)


def _tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, dict):
        return from_lists(name, value)
    packed = check(PackedTensor, value, f"inputs.{name}")
    return Tensor(packed.dtype, packed.shape, packed.data)


def _scores(outputs: Outputs) -> list[float]:
    """One of each item. Raises InvalidRequestError where the model says more of them."""
    name, first = next(iter(outputs.outputs.items()))
    if first.shape[1:] not in ([], [1]):
        raise InvalidRequestError(
            f"output {name!r} of this model has {first.shape[1:]} values an item, not one score; "
            "POST /v2/models/MODEL/infer answers all of them",
            "inputs",
        )
    return floats_of(first)
