"""KServe's inference protocol over real HTTP: metadata, inference in both encodings, errors."""

from __future__ import annotations

import asyncio
import io
import json
import re
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from services.gateway.config import GatewayConfig
from services.gateway.information import VERSION
from services.gateway.recommendation.inference import HEADER
from services.gateway.service import GatewayService
from services.recommender.config import RecommenderConfig
from services.recommender.service import RecommenderService
from shared.bus import connect
from shared.codec import MAX_MESSAGE_BYTES
from shared.config import BusConfig
from tests.gateway.house import (  # noqa: F401 - fixtures
    NUM_PRICES,
    Answer,
    House,
    house,
    loaded,
    model_folders,
    recommender_settings,
    write_shop,
)
from tests.system import running
from tests.test_docs import ROOT

MODEL = "/v2/models/shop"
INFER = f"{MODEL}/infer"
ITEMS = np.array([7, 0, 39], np.int64)
INPUTS = {
    "user": np.array([3], np.int64),
    "item": ITEMS,
    "prices": np.arange(3 * NUM_PRICES, dtype=np.float32).reshape(3, NUM_PRICES) / 8,
}
DATATYPES = {"int64": "INT64", "int32": "INT32", "float32": "FP32"}


@pytest.fixture
def served() -> str:
    return "shop"


def tensor(name: str, array: np.ndarray, **changes: object) -> dict[str, object]:
    """An input in JSON."""
    return {
        "name": name,
        "shape": list(array.shape),
        "datatype": DATATYPES[array.dtype.name],
        "data": array.ravel().tolist(),
        **changes,
    }


def body(**changes: dict[str, object]) -> dict[str, object]:
    """All inputs, with changes to some."""
    return {"inputs": [tensor(n, a, **changes.get(n, {})) for n, a in INPUTS.items()]}


def binary(inputs: dict[str, np.ndarray], **fields: object) -> tuple[bytes, str]:
    """A body whose tensors follow the JSON, and its header."""
    tensors = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": DATATYPES[array.dtype.name],
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in inputs.items()
    ]
    head = json.dumps({"inputs": tensors, **fields}).encode()
    return head + b"".join(array.tobytes() for array in inputs.values()), str(len(head))


def read_binary(answer: Answer) -> tuple[dict, dict[str, np.ndarray]]:
    """What follows the JSON of an answer, by output."""
    length = int(answer.headers[HEADER])
    head, rest = json.loads(answer.data[:length]), answer.data[length:]
    found = {}
    for output in head["outputs"]:
        if "data" not in output:
            size = output["parameters"]["binary_data_size"]
            found[output["name"]] = np.frombuffer(rest[:size], "<f4").reshape(output["shape"])
            rest = rest[size:]
    assert rest == b""
    return head, found


async def test_server_and_model_say_what_they_are(house: House) -> None:  # noqa: F811
    server = await house.get("/v2")
    assert server.body == {
        "name": "quorum",
        "version": VERSION,
        "extensions": ["binary_tensor_data"],
    }
    assert re.search(rf'^version = "{VERSION}"$', (ROOT / "pyproject.toml").read_text(), re.M)
    version = house.model.version
    described = {
        "name": "shop",
        "versions": [version],
        "platform": "quorum",
        "inputs": [
            {"name": "user", "datatype": "INT64", "shape": [-1]},
            {"name": "item", "datatype": "INT64", "shape": [-1]},
            {"name": "prices", "datatype": "FP32", "shape": [-1, NUM_PRICES]},
        ],
        "outputs": [
            {"name": "score", "datatype": "FP32", "shape": [-1, 1]},
            {"name": "both", "datatype": "FP32", "shape": [-1, 2]},
        ],
    }
    assert (await house.get(MODEL)).body == described
    assert (await house.get(f"{MODEL}/versions/{version}")).body == described


async def test_health_is_that_of_server_and_model(house: House) -> None:  # noqa: F811
    version = house.model.version
    assert (await house.get("/v2/health/live")).body == {"live": True}
    assert (await house.get("/v2/health/ready")).body == {"ready": True}
    for path in (MODEL, f"{MODEL}/versions/{version}"):
        ready = await house.get(f"{path}/ready")
        assert (ready.status, ready.body) == (200, {"name": "shop", "ready": True})


async def test_tensors_in_json_come_back_in_json(house: House) -> None:  # noqa: F811
    expected = house.outputs(INPUTS)
    nested = body(prices={"data": INPUTS["prices"].tolist()}, item={"datatype": "INT32"})
    for sent in (body(), nested):
        answer = await house.post(INFER, {"id": "x-1", **sent})
        assert answer.status == 200, answer.data
        assert answer.body == {
            "model_name": "shop",
            "model_version": house.model.version,
            "id": "x-1",
            "outputs": [
                {
                    "name": name,
                    "datatype": "FP32",
                    "shape": list(array.shape),
                    "data": array.ravel().tolist(),
                }
                for name, array in zip(("score", "both"), expected, strict=True)
            ],
        }


async def test_tensors_in_binary_come_back_in_binary(house: House) -> None:  # noqa: F811
    expected = dict(zip(("score", "both"), house.outputs(INPUTS), strict=True))
    narrow = {**INPUTS, "item": ITEMS.astype(np.int32)}
    for inputs in (INPUTS, narrow):
        data, length = binary(inputs, id="b", parameters={"binary_data_output": True})
        answer = await house.post(INFER, data, **{HEADER: length})
        assert answer.status == 200, answer.data
        head, found = read_binary(answer)
        assert (head["id"], list(found)) == ("b", ["score", "both"])
        for name, array in expected.items():
            assert found[name].tobytes() == array.tobytes()


async def test_the_json_of_a_request_may_be_that_of_another_with_other_numbers(
    house: House,  # noqa: F811 - the fixture, imported
) -> None:
    """What was made of it is kept; its bytes are not, nor is a failure."""
    other = {name: array[::-1].copy() for name, array in INPUTS.items()}
    for inputs in (INPUTS, other, INPUTS):
        data, length = binary(inputs)
        broken = await house.post(INFER, data[:-1], **{HEADER: length})
        assert "'prices' has 47 of its 48 bytes" in broken.error
        answer = await house.post(INFER, data, **{HEADER: length})
        score, _ = house.outputs(inputs)
        assert answer.body["outputs"][0]["data"] == score.ravel().tolist()


async def test_outputs_are_chosen_and_encoded_one_by_one(house: House) -> None:  # noqa: F811
    score, both = house.outputs(INPUTS)
    wanted = [{"name": "both", "parameters": {"binary_data": True}}, {"name": "score"}]
    answer = await house.post(INFER, {**body(), "outputs": wanted})
    head, found = read_binary(answer)
    assert [output["name"] for output in head["outputs"]] == ["both", "score"]
    assert found["both"].tobytes() == both.tobytes()
    assert head["outputs"][1]["data"] == score.ravel().tolist()
    everything = {"binary_data_output": True}
    only = [{"name": "score", "parameters": {"binary_data": False}}]
    answer = await house.post(INFER, {**body(), "parameters": everything, "outputs": only})
    assert answer.body["outputs"] == [
        {"name": "score", "datatype": "FP32", "shape": [3, 1], "data": score.ravel().tolist()}
    ]


async def test_one_user_with_many_items_is_each_asked_alone(house: House) -> None:  # noqa: F811
    together = await house.post(INFER, body())
    alone = []
    for place in range(len(ITEMS)):
        rows = slice(place, place + 1)
        inputs = {**INPUTS, "item": ITEMS[rows], "prices": INPUTS["prices"][rows]}
        answer = await house.post(INFER, {"inputs": [tensor(n, a) for n, a in inputs.items()]})
        alone += answer.body["outputs"][0]["data"]
    assert together.body["outputs"][0]["data"] == alone


WITHOUT = {"inputs": [tensor(n, a) for n, a in INPUTS.items() if n != "item"]}
MORE = {"inputs": [*body()["inputs"], tensor("colour", ITEMS)]}  # type: ignore[misc]
TWICE = {"inputs": [*body()["inputs"], tensor("item", ITEMS)]}  # type: ignore[misc]
BAD: list[tuple[object, str]] = [
    ([], "must be a JSON object"),
    ({}, "inputs: Field required"),
    ({"inputs": []}, "inputs: List should have at least 1"),
    ({"inputs": [5]}, "inputs[0]: Input should be a valid dictionary"),
    ({"inputs": [{}]}, "inputs[0]: name: Field required"),
    ({**body(), "sequence": 1}, "unknown field 'sequence'"),
    (body(item={"colour": 1}), "inputs[1]: unknown field 'colour'"),
    (body(item={"datatype": "BYTES"}), "'item' is BYTES; there are INT64, INT32, FP32"),
    (body(item={"datatype": "FP32"}), "'item' holds float32; needed is int64"),
    (body(prices={"datatype": "INT64"}), "'prices' holds float; needed are whole numbers"),
    (body(prices={"datatype": "INT64", "data": [1] * 12}), "holds int64; needed is float32"),
    (body(item={"shape": [4]}), "'item' has data of shape [3]; needed is [4], or 4 values"),
    (body(item={"shape": [-3]}), "inputs[1]: shape[0]: Input should be greater"),
    (body(item={"shape": [1 << 70]}), "inputs[1]: shape[0]: Input should be less"),
    (body(item={"shape": [3, 1], "data": [[7], [0, 1]]}), "lists of 1 and 2 values"),
    (body(prices={"shape": [2, 6]}), "'prices' is [2, 6]; needed is ['rows', 4]"),
    (body(prices={"data": np.zeros((4, 3)).tolist()}), "'prices' has data of shape [4, 3]"),
    (body(item={"data": None}), "'item' has neither data nor binary_data_size"),
    (body(item={"data": ["7", "0", "1"]}), "'item' holds str; needed are whole numbers"),
    (body(item={"data": [7, 0, 40]}), "'item' holds id 40; its table has rows 0 to 39"),
    (body(item={"data": [7, 0, -1]}), "'item' holds id -1"),
    (body(item={"datatype": "INT32", "data": [7, 0, 1 << 31]}), "a number beyond 32 bits"),
    (body(prices={"data": [0.0] * 11 + [1e39]}), "'prices' holds a number that float32 cannot"),
    (WITHOUT, "input 'item' is missing"),
    (MORE, "no input 'colour'; this model has user, item, prices"),
    (TWICE, "input 'item' is there twice"),
    (body(item={"parameters": {"binary_data_size": 24}}), "both data and binary_data_size"),
    (body(item={"parameters": {"shared_memory": 1}}), "'shared_memory' of input 'item' is not"),
    ({**body(), "parameters": {"priority": 1}}, "'priority' of the request is not supported"),
    ({**body(), "parameters": {"binary_data_output": 1}}, "is int, expected bool"),
    ({**body(), "parameters": {"timeout": 0}}, "'timeout' is 0; it takes microseconds"),
    ({**body(), "outputs": [{"name": "sum"}]}, "no output 'sum'; this model has score, both"),
    ({**body(), "outputs": [{"name": "score", "parameters": {"classification": 2}}]},
     "'classification' of output 'score' is not supported"),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "words"), BAD)
async def test_what_is_wrong_is_a_400_that_names_it(
    house: House,  # noqa: F811 - the fixture, imported
    sent: object,
    words: str,
) -> None:
    answer = await house.post(INFER, sent)
    assert answer.status == 400, answer.data
    assert set(answer.body) == {"error"}
    assert words in answer.error


async def test_broken_binary_bodies_are_400s(house: House) -> None:  # noqa: F811
    data, length = binary(INPUTS)
    floats = {**INPUTS, "prices": np.full((3, NUM_PRICES), np.inf, np.float32)}
    short = {**INPUTS, "item": ITEMS[:2]}
    for sent, header, words in [
        (data, "-1", "Inference-Header-Content-Length is '-1'; it takes the length"),
        (data, "x", "it takes the length of the JSON"),
        (data, "1e2", "it takes the length of the JSON"),
        (data, str(len(data) + 1), f"the body has {len(data)} bytes"),
        (data, "9" * 30, f"the body has {len(data)} bytes"),
        (data, str(int(length) - 1), "the body is not JSON"),
        (data, str(int(length) + 1), "the body is not JSON"),
        (data[:-1], length, "'prices' has 47 of its 48 bytes behind the JSON"),
        (data + b"x", length, "81 bytes follow the JSON; the inputs' binary_data_size make 80"),
        (json.dumps(body()).encode() + b"x", str(len(json.dumps(body()))), "1 bytes follow"),
        (binary(floats)[0], binary(floats)[1], "'prices' holds a number that is not finite"),
        (binary(short)[0], binary(short)[1], "different numbers of rows"),
        (data.replace(b'"shape": [3]', b'"shape": [4]'), length, "INT64 [4] takes 32"),
        (data.replace(b'_size": 24', b'_size": -1'), length, "binary_data_size -1"),
        (data.replace(b'_size": 24', b'_size":1.5'), length, "is float, expected int"),
    ]:
        answer = await house.post(INFER, sent, **{HEADER: header})
        assert answer.status == 400, (words, answer.data)
        assert words in answer.error
    without = await house.post(INFER, data)
    assert without.status == 400


async def test_what_is_too_large_is_refused_in_a_sentence(house: House) -> None:  # noqa: F811
    url = house.url + INFER
    async with house.http.post(url, data=io.BytesIO(b" " * (2 << 20))) as response:
        assert response.status == 413
        assert "size 1048576 exceeded" in (await response.json())["error"]
    long = {HEADER: str(2 << 20)}
    async with house.http.post(url, data=io.BytesIO(b" " * (3 << 20)), headers=long) as response:
        assert response.status == 400
        assert "send tensors as binary data" in (await response.json())["error"]
    many = {**INPUTS, "item": np.zeros(MAX_MESSAGE_BYTES // 8 - 64, np.int64)}
    data, length = binary({**many, "prices": INPUTS["prices"][:1]})
    answer = await house.post(INFER, data, **{HEADER: length})
    assert (answer.status, answer.error) == (
        400,
        f"{len(many['item'])} items; at most 10000 are scored at once",
    )
    # As int32 half as long as on the bus.
    wide = {**many, "item": np.zeros(MAX_MESSAGE_BYTES // 5, np.int32)}
    data, length = binary(wide)
    answer = await house.post(INFER, data, **{HEADER: length})
    assert answer.status == 413
    assert "bytes that a message carries" in answer.error
    async with house.http.post(
        url, data=io.BytesIO(bytes(MAX_MESSAGE_BYTES + 1)), headers={HEADER: "2"}
    ) as response:
        assert response.status == 413


class TestMany:
    @pytest.fixture
    def recommender_settings(self) -> dict[str, object]:
        return {"max_items": 1_000_000}

    async def test_an_answer_that_no_message_carries_is_refused_before_it_is_computed(
        self,
        house: House,  # noqa: F811 - the fixture, imported
    ) -> None:
        many = {**INPUTS, "item": np.zeros(720_000, np.int64), "prices": INPUTS["prices"][:1]}
        data, length = binary(many)
        answer = await house.post(INFER, data, **{HEADER: length})
        assert answer.status == 400
        assert "the answer for 720000 items takes 8640000 bytes; at most" in answer.error


@pytest.mark.parametrize(
    "path",
    ["/v2/models/nobody", "/v2/models/nobody/ready", f"{MODEL}/versions/9", f"{MODEL}/config",
     f"{MODEL}/versions/9/ready", "/v2/nothing"],
)  # fmt: skip
async def test_what_is_not_there_is_a_404(house: House, path: str) -> None:  # noqa: F811
    answer = await house.get(path)
    assert answer.status == 404
    assert set(answer.body) == {"error"}


async def test_an_unknown_version_is_told_which_there_are(house: House) -> None:  # noqa: F811
    answer = await house.post(f"{MODEL}/versions/9/infer", body())
    assert answer.status == 404
    assert answer.error == f"shop has no version '9'; there is {house.model.version}"
    posted = await house.post(MODEL, body())
    assert (posted.status, posted.error) == (405, f"{MODEL} does not take POST")


async def test_a_deadline_that_passes_is_a_504(house: House) -> None:  # noqa: F811
    answer = await house.post(INFER, {**body(), "parameters": {"timeout": 1}})
    assert answer.status == 504
    assert set(answer.body) == {"error"}
    patient = await house.post(INFER, {**body(), "parameters": {"timeout": 10**400}})
    assert patient.status == 200
    hurried = await house.post(INFER, body(), **{"X-Request-Timeout": "0.000001"})
    assert hurried.status == 504
    vague = await house.post(INFER, body(), **{"X-Request-Timeout": "soon"})
    assert (vague.status, set(vague.body)) == (400, {"error"})


async def test_without_a_recommender_nothing_is_ready(model_folder: Path) -> None:
    bus_config = BusConfig()
    bus = connect(bus_config)
    config = GatewayConfig(port=0, model=model_folder, recommender="shop")
    gateway = GatewayService(config, bus, bus_config)
    async with running(gateway), aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{gateway.port}"
        for path, known in [
            ("/v2/health/ready", {"ready": False}),
            (f"{MODEL}/ready", {"name": "shop", "ready": False}),
            (MODEL, {"error": "no recommender of shop is live; try again soon"}),
        ]:
            async with http.get(url + path) as response:
                assert (response.status, await response.json()) == (503, known)
        async with http.post(url + INFER, json=body()) as response:
            assert response.status == 503


async def test_versions_side_by_side_answer_for_themselves_alone(
    model_folder: Path,
    model_folders: dict[str, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    write_shop(tmp_path / "shop", seed=1)
    folders = [model_folders["shop"], tmp_path / "shop"]
    bus_config = BusConfig()
    bus = connect(bus_config)
    config = GatewayConfig(port=0, model=model_folder, recommender="shop")
    gateway = GatewayService(config, bus, bus_config)
    recommenders = [
        RecommenderService(RecommenderConfig(model=f), bus, bus_config) for f in folders
    ]
    models = [loaded(folder) for folder in folders]
    async with running(*recommenders), running(gateway), aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{gateway.port}{MODEL}"
        async with http.get(url) as response:
            assert (await response.json())["versions"] == sorted(m.version for m in models)

        async def ask(version: str) -> dict:
            async with http.post(f"{url}/versions/{version}/infer", json=body()) as response:
                assert response.status == 200, await response.text()
                return await response.json()

        answers = await asyncio.gather(*(ask(model.version) for model in models * 10))
        for model, answer in zip(models * 10, answers, strict=True):
            ((score, _),) = model.score([model.read_tensors(INPUTS, 9)])
            assert answer["model_version"] == model.version
            assert answer["outputs"][0]["data"] == score.ravel().tolist()
