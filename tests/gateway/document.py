"""Real answers, held against the document that /openapi.json serves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from services.gateway.reference.openapi import document

HERE = "urn:quorum"


@cache
def _registry() -> Registry:
    return Registry().with_resource(HERE, DRAFT202012.create_resource(document()))


def check(schema: Mapping[str, Any], value: object) -> None:
    """Raises ValidationError for what the schema of the document does not allow."""
    ours = json.loads(json.dumps(schema).replace('"$ref": "#', f'"$ref": "{HERE}#'))
    Draft202012Validator(ours, registry=_registry()).validate(value)


def operation(method: str, path: str) -> dict[str, Any]:
    """Of the document, by its path there."""
    paths: Any = document()["paths"]
    return paths[path][method.lower()]


def content(method: str, path: str, status: int, kind: str) -> dict[str, Any]:
    """What an answer of that kind is said to be."""
    found = operation(method, path)["responses"][str(status)]
    if "$ref" in found:
        name = found["$ref"].rpartition("/")[2]
        responses: Any = document()["components"]
        found = responses["responses"][name]
    return found["content"][kind]


def check_answer(method: str, path: str, status: int, kind: str, value: object) -> None:
    """Raises for an answer that is not in the document, or not as it is there."""
    check(content(method, path, status, kind)["schema"], value)


def events(text: str) -> list[Any]:
    """Of a stream, which must end as OpenAI's."""
    lines = [line for line in text.split("\n\n") if line and not line.startswith(":")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def check_events(method: str, path: str, text: str) -> None:
    """Raises for an event that is not as the document says."""
    schema = content(method, path, 200, "text/event-stream")["schema"]
    told, _ = schema["properties"]["data"]["anyOf"]
    for event in events(text):
        check(told["contentSchema"], event)
