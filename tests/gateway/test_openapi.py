"""/openapi.json is the gateway: every route is in it, and real answers are as it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from services.gateway.reference.foreign_fields import (
    OPENAI_CHAT,
    OPENAI_COMPLETION,
    VLLM_CHAT,
    VLLM_COMPLETION,
)
from services.gateway.reference.openapi import document
from services.gateway.reference.operations import OPERATIONS, Operation
from services.gateway.schemas import NEUTRAL, ChatBody, CompletionBody
from tests.gateway.conftest import Stage
from tests.gateway.document import check_answer, check_events
from tests.gateway.house import House, house, model_folders, recommender_settings, served

__all__ = ["house", "model_folders", "recommender_settings", "served"]

EXAMPLES = [
    pytest.param(one, name, id=f"{one.path} {name}")
    for one in OPERATIONS
    for name in one.examples
    if one.group == "Generation"
]


def routes(stage: Stage) -> set[tuple[str, str]]:
    """Methods and paths of the gateway's own router; a HEAD comes with each GET."""
    app = stage.gateway._application()
    return {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }


async def test_every_route_is_in_the_document_and_nothing_else(stage: Stage) -> None:
    paths: Any = document()["paths"]
    told = {(method, path) for path, methods in paths.items() for method in methods}
    assert told == routes(stage)


async def test_it_is_served_and_kept(stage: Stage) -> None:
    async with stage.http.get(stage.url + "/openapi.json") as response:
        assert response.content_type == "application/json"
        assert await response.json() == json.loads(json.dumps(document()))
        etag = response.headers["ETag"]
    headers = {"If-None-Match": etag}
    async with stage.http.get(stage.url + "/openapi.json", headers=headers) as response:
        assert (response.status, await response.read()) == (304, b"")


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_schemas_are_schemas_and_references_lead_somewhere() -> None:
    components: Any = document()["components"]
    for name, schema in components["schemas"].items():
        assert "__" not in name, "two models have one name"
        Draft202012Validator.check_schema(schema)
    found = set(references(document()))
    assert len(found) > 40
    for reference in found:
        at: Any = document()
        for part in reference.removeprefix("#/").split("/"):
            at = at[part]


def test_operations_have_ids_of_their_own() -> None:
    ids = [operation.id for operation in OPERATIONS]
    assert len(set(ids)) == len(ids)


def test_every_field_of_a_body_says_what_it_is_for() -> None:
    components: Any = document()["components"]
    for operation in OPERATIONS:
        if operation.body is not None:
            schema = components["schemas"][operation.body.__name__]
            silent = [
                name
                for name, own in schema["properties"].items()
                if "description" not in own and name not in NEUTRAL
            ]
            assert not silent, operation.body


@pytest.mark.parametrize(("operation", "name"), EXAMPLES)
async def test_examples_of_generation_are_answered_as_it_says(
    stage: Stage, operation: Operation, name: str
) -> None:
    url, body = stage.url + operation.path, operation.examples[name]
    async with stage.http.post(url, json=body) as response:
        assert response.status == 200, await response.text()
        if response.content_type == "text/event-stream":
            check_events("post", operation.path, await response.text())
        else:
            check_answer("post", operation.path, 200, response.content_type, await response.json())


async def test_errors_are_as_it_says(stage: Stage) -> None:
    wrong: list[tuple[str, str, object, int]] = [
        ("post", "/v1/completions", {}, 400),
        ("post", "/v1/completions", {"prompt": "x", "model": "gpt-9"}, 404),
        ("post", "/v1/recommendations", {}, 503),
        ("post", "/v2/models/{model}/infer", {}, 404),
        ("get", "/v1/models/{model}", None, 404),
        ("get", "/health/ready", None, 200),
    ]
    for method, path, body, status in wrong:
        async with stage.http.request(method, stage.url + path, json=body) as response:
            assert response.status == status, await response.text()
            check_answer(method, path, status, response.content_type, await response.json())


GETS = [
    "/v1/models", "/v1/models/toy", "/v1/info", "/v1/status", "/v1/recommenders/toy/plan",
    "/v2", "/v2/models/toy", "/v2/models/toy/ready", "/v2/health/live", "/v2/health/ready",
    "/health/live", "/health/ready",
]  # fmt: skip


@pytest.mark.parametrize("path", GETS)
async def test_what_a_recommender_is_told_of_is_as_it_says(house: House, path: str) -> None:
    answer = await house.get(path)
    assert answer.status == 200
    template = path.replace("/toy", "/{model}")
    check_answer("get", template, 200, answer.content_type, answer.body)


@pytest.mark.parametrize("kind", ["application/json", "application/msgpack"])
async def test_recommendations_are_as_it_says(house: House, kind: str) -> None:
    answer = await house.post("/v1/recommendations", {"k": 2}, Accept=kind)
    assert (answer.status, answer.content_type) == (200, kind)
    check_answer("post", "/v1/recommendations", 200, kind, answer.body)


async def test_another_method_is_told_which_there_are(stage: Stage) -> None:
    async with stage.http.delete(stage.url + "/v1/models") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET, HEAD"


def test_a_field_of_openai_or_vllm_is_supported_or_refused_by_name() -> None:
    """None of them is unknown."""
    for body, names in (
        (CompletionBody, (*OPENAI_COMPLETION, *VLLM_COMPLETION)),
        (ChatBody, (*OPENAI_CHAT, *VLLM_CHAT)),
    ):
        assert not set(names) - set(body.model_fields) - set(NEUTRAL)
