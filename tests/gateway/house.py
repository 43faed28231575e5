"""A real gateway over HTTP before a real recommender, both on one bus."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import aiohttp
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from services.gateway.config import GatewayConfig
from services.gateway.service import GatewayService
from services.recommender.config import RecommenderConfig
from services.recommender.folder import load_model
from services.recommender.model import Model
from services.recommender.planner.profiles import U280
from services.recommender.planning import Limits
from services.recommender.restructure import read_source, restructure
from services.recommender.service import RecommenderService
from shared.bus import connect
from shared.bus.base import Bus
from shared.codec import pack, unpack
from shared.config import BusConfig
from tests.recommender.toy import write_toy
from tests.system import running

MSGPACK = "application/msgpack"
TABLES = {"user": (5, 3), "item": (40, 2)}
NUM_PRICES = 4


def write_shop(folder: Path, seed: int = 0) -> None:
    """A model of tensors alone: a user, an item and prices; what it answers has two outputs, a
    score and the features' sum beside the score."""
    source = folder.with_name(f"{folder.name}.source")
    source.mkdir()
    rng = np.random.default_rng(seed)
    for name, shape in TABLES.items():
        np.save(source / f"{name}.npy", rng.standard_normal(shape, np.float32))
    widths = {"user": 3, "item": 2, "prices": NUM_PRICES}
    kind = TensorProto.FLOAT
    weights = rng.standard_normal((sum(widths.values()), 1), np.float32)
    nodes = [
        helper.make_node("Concat", list(widths), ["all"], axis=1),
        helper.make_node("MatMul", ["all", "weights"], ["score"]),
        helper.make_node("ReduceSum", ["all", "axes"], ["sum"], keepdims=1),
        helper.make_node("Concat", ["score", "sum"], ["both"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info(n, kind, ["rows", w]) for n, w in widths.items()],
        [
            helper.make_tensor_value_info(n, kind, ["rows", w])
            for n, w in (("score", 1), ("both", 2))
        ],
        [
            helper.make_tensor("weights", kind, weights.shape, weights.ravel()),
            helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), source / "dense.onnx")
    restructure(read_source(source), folder, U280, Limits(max_growth=9), lambda share, what: None)


@cache
def loaded(folder: Path) -> Model:
    return load_model(folder, slice_rows=64, num_threads=1)


@dataclass
class Answer:
    """What came back."""

    status: int
    data: bytes
    headers: Mapping[str, str]
    content_type: str
    body: object
    """Decoded, where it is JSON or msgpack."""

    @property
    def error(self) -> str:
        """Of OpenAI's shape, or KServe's."""
        assert isinstance(self.body, dict)
        error = self.body["error"]
        return error if isinstance(error, str) else error["message"]


@dataclass
class House:
    """A gateway, the model behind it, and the same model to ask directly."""

    http: aiohttp.ClientSession
    bus: Bus
    gateway: GatewayService
    recommender: RecommenderService
    folder: Path

    @property
    def model(self) -> Model:
        return loaded(self.folder)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.port}"

    async def get(self, path: str, **headers: str) -> Answer:
        async with self.http.get(self.url + path, headers=headers) as response:
            return await _answer(response)

    async def post(self, path: str, body: object = None, **headers: str) -> Answer:
        """JSON, or bytes as they are."""
        content = {"data": io.BytesIO(body)} if isinstance(body, bytes) else {"json": body}
        async with self.http.post(self.url + path, headers=headers, **content) as response:
            return await _answer(response)

    async def post_msgpack(self, path: str, body: object, **headers: str) -> Answer:
        return await self.post(path, pack(body), **{"Content-Type": MSGPACK, **headers})

    def outputs(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """What must come back, bit for bit."""
        (outputs,) = self.model.score([self.model.read_tensors(inputs, 10_000)])
        return outputs


async def _answer(response: aiohttp.ClientResponse) -> Answer:
    data = await response.read()
    kind = response.content_type
    body: object = None
    if kind == "application/json":
        body = await response.json()
    elif kind == MSGPACK:
        body = unpack(data)
    return Answer(response.status, data, response.headers, kind, body)


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("recommenders")
    write_toy(folder / "toy")
    write_shop(folder / "shop")
    return {name: folder / name for name in ("toy", "shop")}


@pytest.fixture
def served() -> str:
    """The model's name; overridden by tests of another one."""
    return "toy"


@pytest.fixture
def recommender_settings() -> dict[str, object]:
    """Overridden by tests that need other settings."""
    return {}


@pytest.fixture
async def house(
    model_folder: Path,
    model_folders: dict[str, Path],
    served: str,
    recommender_settings: dict[str, object],
) -> AsyncIterator[House]:
    bus_config = BusConfig()
    bus = connect(bus_config)
    folder = model_folders[served]
    gateway = GatewayService(
        GatewayConfig(port=0, model=model_folder, recommender=served), bus, bus_config
    )
    recommender = RecommenderService(
        RecommenderConfig(model=folder, **recommender_settings), bus, bus_config
    )
    async with running(recommender), running(gateway), aiohttp.ClientSession() as http:
        yield House(http, bus, gateway, recommender, folder)
