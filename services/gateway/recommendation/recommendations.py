"""The routes of recommendation: names or tensors in, scores out, as JSON or as msgpack."""

from __future__ import annotations

from aiohttp import web
from pydantic import Field

from services.gateway import responses
from services.gateway.options import Body
from services.gateway.recommendation.recommenders import Recommenders
from services.gateway.recommendation.tensors import best, flatten, floats_of, from_lists, of_floats
from services.gateway.responses import Json
from services.gateway.schemas import B, RecommendBody, RowsBody, check, parse
from services.gateway.timeouts import timeout_of
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
        app.router.add_post("/v1/recommenders/{model}/rows", self.rows)

    async def recommend(self, request: web.Request) -> web.Response:
        """The best of names, or what the items of tensors score."""
        body = await _read(RecommendBody, request)
        self._recommenders.require_model(body.model)
        timeout_s = timeout_of(request, body.timeout)
        ask = self._by_names if body.inputs is None else self._by_tensors
        answer = await ask(body, timeout_s)
        return _response(request, answer)

    async def plan(self, request: web.Request) -> web.Response:
        """Where each table is stored, and why."""
        self._recommenders.require_model(request.match_info["model"])
        described = await self._recommenders.describe()
        head: Json = {"object": "plan", "model": described.model, "version": described.version}
        return _response(request, {**head, **described.plan})

    async def rows(self, request: web.Request) -> web.Response:
        """Replaces rows of a table in every replica; 202, since each does so by itself."""
        self._recommenders.require_model(request.match_info["model"])
        body = await _read(RowsBody, request)
        rows = _tensor("rows", body.rows)
        is_packed = isinstance(body.values, dict)
        values = (
            _tensor("values", body.values)
            if is_packed
            else of_floats("values", *flatten("values", body.values))
        )
        written = await self._recommenders.write(
            body.table,
            rows,
            values,
            version=body.version,
            timeout_s=timeout_of(request, body.timeout),
        )
        answer: Json = {
            "object": "rows",
            "model": self._recommenders.model,
            "version": written.version,
            "table": body.table,
            "num_rows": written.num_rows,
        }
        return _response(request, answer, status=202)

    async def _by_names(self, body: RecommendBody, timeout_s: float | None) -> Json:
        scores = await self._recommenders.recommend(
            body.context,
            body.candidates,
            body.k or DEFAULT_K,
            version=body.version,
            timeout_s=timeout_s,
        )
        return responses.recommendations(self._recommenders.model, scores)

    async def _by_tensors(self, body: RecommendBody, timeout_s: float | None) -> Json:
        if body.context or body.candidates is not None:
            raise InvalidRequestError(
                "inputs are numbers; context and candidates are names: send one or the other",
                "inputs",
            )
        inputs = body.inputs or {}
        outputs = await self._recommenders.score(
            {name: _tensor(name, value) for name, value in inputs.items()},
            is_typed=all(isinstance(value, dict) for value in inputs.values()),
            version=body.version,
            timeout_s=timeout_s,
        )
        scores = _scores(outputs)
        places = None if body.k is None else best(scores, body.k)
        return responses.scored(self._recommenders.model, outputs.version, scores, places)


async def _read(cls: type[B], request: web.Request) -> B:
    """JSON, unless the content is said to be msgpack, which may be as long as a message."""
    if request.content_type not in MSGPACK:
        return parse(cls, await request.read())
    data = await request.clone(client_max_size=MAX_MESSAGE_BYTES).read()
    try:
        content = unpack(data)
    except MalformedError as error:
        raise InvalidRequestError(f"the body is not msgpack: {error}") from error
    return check(cls, content)


def _response(request: web.Request, answer: Json, status: int = 200) -> web.Response:
    """msgpack where Accept names it, and JSON not before it."""
    accepted = [part.split(";")[0].strip() for part in request.headers.get("Accept", "").split(",")]
    wanted = next((kind for kind in accepted if kind in (*MSGPACK, "application/json")), None)
    if wanted in MSGPACK:
        return web.Response(body=pack(answer), content_type=wanted, status=status)
    return web.json_response(answer, status=status)


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
