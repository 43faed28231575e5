"""Rows of tables, written over real HTTP, in a real recommender."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tests.gateway.house import (  # noqa: F401 - fixtures
    MSGPACK,
    House,
    house,
    model_folders,
    recommender_settings,
    served,
)
from tests.recommender.toy import DIM

PATH = "/v1/recommenders/toy/rows"
ASKED = {"candidates": ["a"], "k": 1}


async def score(house: House) -> float:  # noqa: F811
    answer = await house.post("/v1/recommendations", ASKED)
    assert isinstance(answer.body, dict)
    return float(answer.body["data"][0]["score"])


@pytest.mark.parametrize("is_packed", [False, True], ids=["json", "msgpack"])
async def test_written_rows_are_scored_by(house: House, is_packed: bool) -> None:  # noqa: F811
    before = await score(house)
    values = np.full((2, DIM), 2.5 if is_packed else -2, np.float32)
    if is_packed:
        rows: object = {"dtype": "int64", "shape": [2], "data": np.array([1, 2]).tobytes()}
        packed = {"dtype": "float32", "shape": [2, DIM], "data": values.tobytes()}
        answer = await house.post_msgpack(
            PATH, {"table": "item", "rows": rows, "values": packed}, Accept=MSGPACK
        )
    else:
        whole = values.astype(int).tolist()
        answer = await house.post(PATH, {"table": "item", "rows": [1, 2], "values": whole})
    assert answer.status == 202
    assert answer.body == {
        "object": "rows",
        "model": "toy",
        "version": house.model.version,
        "table": "item",
        "num_rows": 2,
    }
    async with asyncio.timeout(10):
        while await score(house) == before:
            pass


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"rows": [1], "values": [[1, 2, 3, 4]]}, "table"),
        ({"table": "none", "rows": [1], "values": [[1, 2, 3, 4]]}, "no table 'none'"),
        ({"table": "item", "rows": [1], "values": [[1, 2, 3]]}, "takes [1, 4]"),
        ({"table": "item", "rows": [99], "values": [[1, 2, 3, 4]]}, "row 99 of table item"),
        ({"table": "item", "rows": [1.5], "values": [[1, 2, 3, 4]]}, "rows are float32"),
        ({"table": "item", "rows": "all", "values": [[1, 2, 3, 4]]}, "needed is a list"),
        ({"table": "item", "rows": [1], "values": [[1, 2, 3, 1e39]]}, "that float32 cannot"),
        ({"table": "item", "rows": [[1]], "values": [[1, 2, 3, 4]]}, "values are [1, 4]"),
        ({"table": "item", "rows": [1], "values": [["x"]]}, "needed are numbers"),
        ({"table": "item", "rows": [1], "values": {"dtype": "int64"}}, "shape"),
    ],
)
async def test_what_cannot_be_written_is_refused(
    house: House,  # noqa: F811
    body: dict[str, object],
    sentence: str,
) -> None:
    answer = await house.post(PATH, body)
    assert answer.status == 400, answer.body
    assert sentence in answer.error


async def test_another_model_and_another_version_are_not_found(house: House) -> None:  # noqa: F811
    body = {"table": "item", "rows": [1], "values": [[1, 2, 3, 4]]}
    answer = await house.post("/v1/recommenders/other/rows", body)
    assert answer.status == 404
    answer = await house.post(PATH, {**body, "version": "7"})
    assert answer.status == 404
    assert "no version '7'" in answer.error
    answer = await house.post("/v1/recommendations", {**ASKED, "version": "7"})
    assert answer.status == 404
    answer = await house.post("/v1/recommendations", {**ASKED, "version": "stable"})
    assert answer.status == 200
