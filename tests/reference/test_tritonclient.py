"""NVIDIA's own client of KServe's protocol, unchanged, against gateway and recommender."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from tests.gateway.conftest import model_folder  # noqa: F401 - a fixture
from tests.gateway.house import (  # noqa: F401 - fixtures
    NUM_PRICES,
    House,
    house,
    model_folders,
    recommender_settings,
)

triton = pytest.importorskip("tritonclient.http")
aio = pytest.importorskip("tritonclient.http.aio")
pytestmark = pytest.mark.reference

ITEMS = np.array([7, 0, 39, 7], np.int64)
INPUTS = {
    "user": np.array([3], np.int64),
    "item": ITEMS,
    "prices": np.linspace(-1, 1, len(ITEMS) * NUM_PRICES, dtype=np.float32).reshape(
        len(ITEMS), NUM_PRICES
    ),
}
DATATYPES = {"int64": "INT64", "int32": "INT32", "float32": "FP32"}


@pytest.fixture
def served() -> str:
    return "shop"


@pytest.fixture
async def client(house: House) -> AsyncIterator[aio.InferenceServerClient]:  # noqa: F811
    async with aio.InferenceServerClient(house.url.removeprefix("http://")) as client:
        yield client


def given(inputs: dict[str, np.ndarray], is_binary: bool) -> list[triton.InferInput]:
    found = []
    for name, array in inputs.items():
        tensor = triton.InferInput(name, array.shape, DATATYPES[array.dtype.name])
        found.append(tensor.set_data_from_numpy(array, binary_data=is_binary))
    return found


async def test_it_asks_for_health_and_metadata(house: House, client) -> None:  # noqa: F811
    version = house.model.version
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("shop")
    assert await client.is_model_ready("shop", version)
    assert not await client.is_model_ready("shop", "9")
    assert not await client.is_model_ready("nobody")
    server = await client.get_server_metadata()
    assert (server["name"], server["extensions"]) == ("quorum", ["binary_tensor_data"])
    for named in ("", version):
        model = await client.get_model_metadata("shop", named)
        assert (model["name"], model["versions"]) == ("shop", [version])
        assert {one["name"]: one["datatype"] for one in model["inputs"]} == {
            name: DATATYPES[array.dtype.name] for name, array in INPUTS.items()
        }
        assert [one["name"] for one in model["outputs"]] == ["score", "both"]


@pytest.mark.parametrize("is_binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("wants_binary", [True, False, None], ids=["binary", "json", "all"])
async def test_it_infers_the_same_bits_in_every_encoding(
    house: House,  # noqa: F811
    client,
    is_binary: bool,
    wants_binary: bool | None,
) -> None:
    score, both = house.outputs(INPUTS)
    outputs = None
    if wants_binary is not None:
        names = ("both", "score")
        outputs = [triton.InferRequestedOutput(n, binary_data=wants_binary) for n in names]
    answer = await client.infer(
        "shop", given(INPUTS, is_binary), outputs=outputs, request_id="r-1", timeout=20_000_000
    )
    assert answer.as_numpy("score").tobytes() == score.tobytes()
    assert answer.as_numpy("both").tobytes() == both.tobytes()
    head = answer.get_response()
    assert (head["id"], head["model_version"]) == ("r-1", house.model.version)


async def test_it_narrows_ids_names_a_version_and_compresses(
    house: House,  # noqa: F811
    client,
) -> None:
    score, _ = house.outputs(INPUTS)
    narrow = {**INPUTS, "item": ITEMS.astype(np.int32)}
    for algorithm in (None, "gzip", "deflate"):
        answer = await client.infer(
            "shop",
            given(narrow, True),
            model_version=house.model.version,
            request_compression_algorithm=algorithm,
        )
        assert answer.as_numpy("score").tobytes() == score.tobytes()


async def test_the_synchronous_client_works_too(house: House) -> None:  # noqa: F811
    score, _ = house.outputs(INPUTS)

    def ask() -> list[np.ndarray]:
        with triton.InferenceServerClient(house.url.removeprefix("http://")) as client:
            waiting = [client.async_infer("shop", given(INPUTS, True)) for _ in range(3)]
            whole = client.infer("shop", given(INPUTS, True)).as_numpy("score")
            return [whole, *(one.get_result().as_numpy("score") for one in waiting)]

    for found in await asyncio.to_thread(ask):
        assert found.tobytes() == score.tobytes()


async def test_what_is_refused_is_its_exception_with_our_sentence(client) -> None:
    for change, words in [
        ({"item": np.array([40], np.int64)}, "'item' holds id 40; its table has rows 0 to 39"),
        ({"item": np.array([4], np.float32)}, "'item' holds float32; needed is int64"),
        ({"colour": np.array([4], np.int64)}, "no input 'colour'"),
    ]:
        with pytest.raises(triton.InferenceServerException, match=words) as caught:
            await client.infer("shop", given({**INPUTS, **change}, True))
        assert caught.value.status() == "400"
    with pytest.raises(triton.InferenceServerException, match="has no version '9'") as caught:
        await client.infer("shop", given(INPUTS, True), model_version="9")
    assert caught.value.status() == "404"
    with pytest.raises(triton.InferenceServerException, match="'priority'") as caught:
        await client.infer("shop", given(INPUTS, True), priority=1)
