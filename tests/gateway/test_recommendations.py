"""Recommendations over real HTTP, from a real recommender: names, numbers, and what is refused."""

from __future__ import annotations

import asyncio
import io
import math
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from services.gateway.config import GatewayConfig
from services.gateway.service import GatewayService
from shared.bus import Bus, connect
from shared.codec import MAX_MESSAGE_BYTES, unpack
from shared.config import BusConfig
from shared.service import Service, Terminal
from shared.tensor_messages import Outputs, ScoreRequest, Tensor
from shared.topics import score_requests
from tests.gateway.house import (  # noqa: F401 - fixtures
    MSGPACK,
    NUM_PRICES,
    House,
    house,
    model_folders,
    recommender_settings,
    served,
)
from tests.recommender.toy import ITEMS
from tests.system import running

PATH = "/v1/recommendations"
USER = {
    "place": [[1, 2]],
    "seen": [[3, 1, -1]],
    "last": [[1]],
    "seen_roots": [[2, 1]],
    "number": [[4]],
}
"""One user, in the inputs of the toy."""
CANDIDATES = {"item": [1, 5, 7, 2, 5], "root": [1, 2, 4, 1, 2]}
TOY = {**USER, **CANDIDATES}


def arrays(inputs: dict[str, list]) -> dict[str, np.ndarray]:
    return {name: np.array(values) for name, values in inputs.items()}


def packed(array: np.ndarray) -> dict[str, object]:
    """As msgpack carries it."""
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": array.tobytes()}


async def test_names_are_ranked_as_ever(house: House) -> None:  # noqa: F811
    context = {"place": ["x.y"], "seen": ["d"]}
    answer = await house.post(PATH, {"context": context, "candidates": ITEMS, "k": 3})
    assert answer.status == 200
    (scores,) = house.model.rank([house.model.read(context, ITEMS).query])
    order = np.argsort(-scores, kind="stable")[:3]
    assert answer.body == {
        "object": "list",
        "model": "toy",
        "version": house.model.version,
        "data": [
            {"item": ITEMS[place], "score": float(scores[place]), "rank": rank}
            for rank, place in enumerate(order, 1)
        ],
        "num_unknown": 0,
    }
    whole = await house.post(PATH, {})
    assert len(whole.body["data"]) == len(ITEMS)


async def test_items_of_tensors_are_scored_in_their_order(house: House) -> None:  # noqa: F811
    answer = await house.post(PATH, {"model": "toy", "inputs": TOY})
    assert answer.status == 200
    (expected,) = house.outputs(arrays(TOY))
    assert answer.body == {
        "object": "list",
        "model": "toy",
        "version": house.model.version,
        "scores": expected[:, 0].tolist(),
    }


async def test_the_best_of_tensors_come_first_and_equals_in_order(
    house: House,  # noqa: F811
) -> None:
    answer = await house.post(PATH, {"inputs": TOY, "k": 4})
    scores = house.outputs(arrays(TOY))[0][:, 0].tolist()
    best = sorted(range(5), key=lambda place: (-scores[place], place))[:4]
    assert scores[1] == scores[4]
    assert answer.body["data"] == [
        {"index": place, "score": scores[place], "rank": rank} for rank, place in enumerate(best, 1)
    ]
    assert "scores" not in answer.body


async def test_one_user_with_many_candidates_is_each_asked_alone(house: House) -> None:  # noqa: F811
    together = await house.post(PATH, {"inputs": TOY})
    alone = await asyncio.gather(
        *(
            house.post(PATH, {"inputs": {**USER, "item": [item], "root": [root]}})
            for item, root in zip(*CANDIDATES.values(), strict=True)
        )
    )
    assert [score for one in alone for score in one.body["scores"]] == together.body["scores"]


@pytest.mark.parametrize("kind", [MSGPACK, "application/x-msgpack"])
async def test_msgpack_bodies_are_read_and_written(house: House, kind: str) -> None:  # noqa: F811
    expected = (await house.post(PATH, {"inputs": TOY})).body
    mixed = {**USER, **{name: packed(np.array(ids)) for name, ids in CANDIDATES.items()}}
    for inputs in (TOY, mixed):
        answer = await house.post_msgpack(PATH, {"inputs": inputs}, **{"Content-Type": kind})
        assert (answer.status, answer.body) == (200, expected)
    answer = await house.post_msgpack(PATH, {"inputs": mixed}, Accept=kind)
    assert (answer.status, answer.content_type) == (200, kind)
    assert unpack(answer.data) == expected
    answer = await house.post(PATH, {"inputs": TOY}, Accept=f"text/html, {kind};q=0.9, */*")
    assert unpack(answer.data) == expected
    answer = await house.post_msgpack(PATH, {"inputs": TOY}, Accept=f"application/json, {kind}")
    assert answer.body == expected
    names = await house.post_msgpack(PATH, {"context": {"seen": ["a"]}, "k": 1})
    assert names.body == (await house.post(PATH, {"context": {"seen": ["a"]}, "k": 1})).body


BAD: list[tuple[dict[str, object], str | None, str]] = [
    ({"inputs": {}}, "inputs", "at least 1"),
    ({"inputs": [1]}, "inputs", "dictionary"),
    ({"inputs": {**TOY, "x" * 513: [1]}}, "inputs", "at most 512 characters"),
    ({"inputs": TOY, "candidates": ["a"]}, "inputs", "one or the other"),
    ({"inputs": TOY, "context": {"seen": ["a"]}}, "inputs", "one or the other"),
    ({"inputs": TOY, "k": 0}, "k", "greater"),
    ({"inputs": {**TOY, "colour": [1]}}, "inputs.colour", "no input 'colour'; this model has"),
    ({"inputs": USER}, "inputs.item", "input 'item' is missing"),
    ({"inputs": {**TOY, "item": 5}}, "inputs.item", "'item' is int; needed is a list"),
    ({"inputs": {**TOY, "item": "5"}}, "inputs.item", "'item' is str; needed is a list"),
    ({"inputs": {**TOY, "item": []}}, "inputs.item", "input 'item' has no rows"),
    ({"inputs": {**TOY, "item": ["5"]}}, "inputs.item", "holds str; needed are whole numbers"),
    ({"inputs": {**TOY, "item": [True]}}, "inputs.item", "holds bool; needed are whole"),
    ({"inputs": {**TOY, "item": [None]}}, "inputs.item", "holds NoneType"),
    ({"inputs": {**TOY, "item": [1.5, 2]}}, "inputs.item", "holds float32; needed is int64"),
    ({"inputs": {**TOY, "item": [[1, 2]]}}, "inputs.item", "'item' is [1, 2]; needed is"),
    ({"inputs": {**TOY, "item": [[1], 2]}}, "inputs.item", "holds numbers beside lists"),
    ({"inputs": {**TOY, "item": [1, [2]]}}, "inputs.item", "holds list"),
    ({"inputs": {**TOY, "seen": [[1], [2, 3]]}}, "inputs.seen", "lists of 1 and 2 values"),
    ({"inputs": {**TOY, "item": [[[[[[[[[1]]]]]]]]]}}, "inputs.item", "deeper than 8"),
    ({"inputs": {**TOY, "item": [1, 2, 3]}}, "inputs", "item 3, root 5; all have one"),
    ({"inputs": {**TOY, "item": [1, 2, 3, 4, 8]}}, "inputs.item", "holds id 8; its table has rows"),
    ({"inputs": {**TOY, "number": [[5]]}}, "inputs.number", "holds id 5; its table has rows 0"),
    ({"inputs": {**TOY, "item": [1 << 63]}}, "inputs.item", "holds a number beyond 64 bits"),
    ({"inputs": {**TOY, "item": {"dtype": "int64"}}}, "inputs.item", "Field required"),
    ({"inputs": {**TOY, "item": {"dtype": "int64", "shape": [1], "data": "AAAAAAAA"}}},
     "inputs.item", "data"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "param", "words"), BAD)
async def test_what_is_wrong_with_numbers_is_named(
    house: House,  # noqa: F811
    body: dict[str, object],
    param: str | None,
    words: str,
) -> None:
    answer = await house.post(PATH, body)
    assert answer.status == 400, answer.data
    assert answer.body["error"]["param"] == param
    assert words in answer.error


ONE = np.array([1])
BAD_TENSORS: list[tuple[dict[str, object], str]] = [
    ({**packed(ONE), "dtype": "int32"}, "'item' is int32; there are int64, float32"),
    ({**packed(ONE), "dtype": "float32"}, "has 8 bytes; float32 [1] takes 4"),
    (packed(ONE.astype(np.float32)), "holds float32; needed is int64"),
    ({**packed(ONE), "shape": [2]}, "has 8 bytes; int64 [2] takes 16"),
    ({**packed(ONE), "shape": [-1]}, "none negative"),
    ({**packed(ONE), "shape": [-1, -1]}, "none negative"),
    ({**packed(ONE), "shape": [1] * 9}, "at most 8"),
    ({**packed(ONE), "shape": [0, 1 << 62, 1 << 62], "data": b""}, "has shape"),
    ({**packed(ONE), "shape": [1.0]}, "valid integer"),
    ({**packed(ONE), "shape": []}, "'item' has no rows"),
    ({**packed(ONE), "data": [1]}, "valid bytes"),
    ({**packed(ONE), "order": "F"}, "unknown field 'order'"),
    ({"dtype": "int64", "shape": [1]}, "Field required"),
]


@pytest.mark.parametrize(("tensor", "words"), BAD_TENSORS)
async def test_what_is_wrong_with_a_tensor_of_bytes_is_named(
    house: House,  # noqa: F811
    tensor: dict[str, object],
    words: str,
) -> None:
    answer = await house.post_msgpack(PATH, {"inputs": {**TOY, "item": tensor}})
    assert answer.status == 400, answer.data
    assert answer.body["error"]["param"] == "inputs.item"
    assert words in answer.error
    assert "item" in answer.error


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the body is not msgpack"),
        (b"\xc1", "the body is not msgpack"),
        (b"\x91\x01", "must be a map"),
        (b"\x81\x01\x02", "a key of a map is int"),
        (b"\x81\xa6inputs\xd4\x05\x00", "holds ExtType"),
        (b"\x81\xa1x\x02", "unknown field 'x'"),
        (b"\x91" * 100_000, "the body is not msgpack"),
    ],
)
async def test_broken_msgpack_is_a_400(house: House, data: bytes, words: str) -> None:  # noqa: F811
    answer = await house.post(PATH, data, **{"Content-Type": MSGPACK})
    assert answer.status == 400
    assert words in answer.error


async def test_what_is_too_large_is_a_413_that_says_what_is_taken(house: House) -> None:  # noqa: F811
    url = house.url + PATH
    async with house.http.post(url, data=io.BytesIO(b"[" * (2 << 20))) as response:
        assert response.status == 413
        assert "size 1048576 exceeded" in (await response.json())["error"]["message"]
    half = packed(np.zeros(MAX_MESSAGE_BYTES // 16, np.int64))
    fits = await house.post_msgpack(PATH, {"inputs": {**TOY, "item": half, "root": [1]}})
    assert fits.status == 400
    assert "524288 items; at most 10000 are scored at once" in fits.error
    # Short as msgpack, but not as int64.
    ids = {name: [0] * 600_000 for name in ("item", "root")}
    beyond = await house.post_msgpack(PATH, {"inputs": {**TOY, **ids}})
    assert beyond.status == 413
    assert f"more than the {MAX_MESSAGE_BYTES} bytes that a message carries" in beyond.error
    longer = {"Content-Type": MSGPACK}
    content = io.BytesIO(bytes(MAX_MESSAGE_BYTES + 1))
    async with house.http.post(url, data=content, headers=longer) as response:
        assert response.status == 413


async def test_the_plan_says_where_each_table_is_and_why(house: House) -> None:  # noqa: F811
    answer = await house.get("/v1/recommenders/toy/plan")
    assert answer.status == 200
    layout, plan = house.model.layout, answer.body
    assert (plan["object"], plan["model"], plan["version"]) == ("plan", "toy", house.model.version)
    assert plan["profile"] == "u280"
    stored = {name for one in plan["stored"] for name in one["tables"]}
    assert stored == {table.name for table in layout.tables}
    assert plan["bytes"] == sum(one["bytes"] for one in plan["stored"])
    assert plan["bytes_alone"] == sum(4 * t.num_rows * t.dim for t in layout.tables)
    banks: dict[tuple[str, int], float] = {}
    for one in plan["stored"]:
        banks[one["tier"], one["bank"]] = banks.get((one["tier"], one["bank"]), 0.0) + one["ns"]
    assert plan["ns_an_item"] == pytest.approx(max(banks.values()))
    first, own = plan["stored"][0], layout.stored[0]
    assert first == {
        "tables": [part.table for part in own.parts],
        "num_rows": own.num_rows,
        "dim": sum(layout.table(part.table).dim for part in own.parts),
        "element": "fp32",
        "bytes": own.num_bytes,
        "offset": own.offset,
        "tier": own.tier,
        "bank": own.bank,
        "ns": own.ns,
        "reason": own.reason,
    }
    again = await house.get("/v1/recommenders/toy/plan", Accept=MSGPACK)
    assert again.body == plan
    other = await house.get("/v1/recommenders/nobody/plan")
    assert (other.status, other.body["error"]["code"]) == (404, "model_not_found")


async def test_an_unknown_model_is_a_404(house: House) -> None:  # noqa: F811
    answer = await house.post(PATH, {"model": "nobody", "inputs": TOY})
    assert answer.status == 404
    assert "there is toy" in answer.error


async def test_without_a_recommender_it_is_a_503(model_folder: Path) -> None:
    bus_config = BusConfig()
    bus = connect(bus_config)
    config = GatewayConfig(port=0, model=model_folder, recommender="toy")
    gateway = GatewayService(config, bus, bus_config)
    async with running(gateway), aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{gateway.port}"
        async with http.post(url + PATH, json={"inputs": TOY}) as response:
            assert response.status == 503
        async with http.get(url + "/v1/recommenders/toy/plan") as response:
            assert response.status == 503


class TestShop:
    """A model with a float input, two outputs, and no names."""

    @pytest.fixture
    def served(self) -> str:
        return "shop"

    async def test_whole_numbers_serve_for_fractions(self, house: House) -> None:  # noqa: F811
        whole = {"user": [3], "item": [7, 0], "prices": [[1, 2, 3, 4]]}
        answer = await house.post(PATH, {"inputs": whole})
        as_floats = {**arrays(whole), "prices": np.array(whole["prices"], np.float32)}
        assert answer.status == 200
        assert answer.body["scores"] == house.outputs(as_floats)[0][:, 0].tolist()
        mixed = {**whole, "prices": [[1, 2.0, 3, 4]]}
        assert (await house.post(PATH, {"inputs": mixed})).body == answer.body
        # What says its type has to have the right one.
        typed = {name: packed(np.array(values)) for name, values in whole.items()}
        refused = await house.post_msgpack(PATH, {"inputs": typed})
        assert (refused.status, refused.body["error"]["param"]) == (400, "inputs.prices")
        assert "'prices' holds int64; needed is float32" in refused.error

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39])
    async def test_what_is_not_finite_is_refused(
        self,
        house: House,  # noqa: F811
        value: float,
    ) -> None:
        prices = [[0.0] * (NUM_PRICES - 1) + [value]]
        inputs = {"user": [3], "item": [7, 0], "prices": prices}
        answers = [await house.post_msgpack(PATH, {"inputs": inputs})]
        with np.errstate(over="ignore"):
            tensor = packed(np.array(prices, np.float32))
        answers.append(await house.post_msgpack(PATH, {"inputs": {**inputs, "prices": tensor}}))
        for answer in answers:
            assert (answer.status, answer.body["error"]["param"]) == (400, "inputs.prices")
            assert "'prices' holds a number that" in answer.error

    async def test_numbers_that_lead_beyond_all_bounds_fail_alone(
        self,
        house: House,  # noqa: F811
    ) -> None:
        sound = {"user": [3], "item": [7, 0], "prices": [[1.0] * NUM_PRICES]}
        huge = {**sound, "prices": [[3e38] * NUM_PRICES]}
        answers = await asyncio.gather(
            *(house.post(PATH, {"inputs": inputs}) for inputs in [sound, huge] * 20)
        )
        for answer in answers[::2]:
            assert answer.body == answers[0].body
            assert answer.status == 200
        for answer in answers[1::2]:
            assert answer.status == 400
            assert "not finite" in answer.error

    async def test_names_are_refused_with_what_to_send_instead(
        self,
        house: House,  # noqa: F811
    ) -> None:
        answer = await house.post(PATH, {"candidates": ["1"]})
        assert answer.status == 400
        assert "send its inputs (user, item, prices) as tensors" in answer.error

    class TestFew:
        @pytest.fixture
        def recommender_settings(self) -> dict[str, object]:
            return {"max_items": 2}

        async def test_more_items_than_allowed_are_refused(
            self,
            house: House,  # noqa: F811
        ) -> None:
            inputs = {"user": [3], "item": [7, 0, 1], "prices": [[1.0] * NUM_PRICES]}
            answer = await house.post(PATH, {"inputs": inputs})
            assert answer.status == 400
            assert "3 items; at most 2" in answer.error


class Forgetful(Service):
    """A recommender that drops the first request, as if its answer had been lost."""

    def __init__(self, bus: Bus, bus_config: BusConfig) -> None:
        super().__init__("recommender", "toy", bus, bus_config)
        self.requests: list[ScoreRequest] = []

    async def serve(self) -> None:
        topic = score_requests(self.name)
        await self.announce({"version": "1", "versions": "1"})
        async with self.bus.subscribe(topic) as inbound:
            lost = await inbound.next()
            self.requests.append(lost.message)
            await lost.ack()
        await self.consume(topic, self._answer_one, 4)

    async def _answer_one(self, request: ScoreRequest) -> Terminal:
        self.requests.append(request)
        return Outputs(request.request_id, {"score": Tensor("float32", [1], bytes(4))}, "1")


async def test_a_lost_answer_has_the_request_published_again(model_folder: Path) -> None:
    bus_config = BusConfig()
    bus = connect(bus_config)
    config = GatewayConfig(port=0, model=model_folder, recommender="toy", silence_s=0.1)
    gateway, recommender = GatewayService(config, bus, bus_config), Forgetful(bus, bus_config)
    async with running(recommender), running(gateway), aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{gateway.port}{PATH}"
        async with http.post(url, json={"inputs": {"x": [1]}}) as response:
            assert (await response.json())["scores"] == [0.0]
    first, again = recommender.requests
    assert first == again
