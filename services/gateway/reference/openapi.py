"""The OpenAPI 3.1 document of the gateway: made of the schemas that check the bodies, of those of
the answers, and of the table of operations. Pure, and the same in every installation."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from services.gateway.doorkeeper import OPEN, RIGHTS
from services.gateway.information import VERSION
from services.gateway.options import Body
from services.gateway.recommendation.inference import HEADER, InferBody, InferInput, InferOutput
from services.gateway.recommendation.recommendations import PackedTensor
from services.gateway.reference import kserve_schemas as ks
from services.gateway.reference import response_schemas as rs
from services.gateway.reference.field_notes import NOTES
from services.gateway.reference.operations import (
    BYTES,
    EVENTS,
    GROUPS,
    JSON,
    OPERATIONS,
    PARAMETERS,
    Content,
    Operation,
)
from services.gateway.responses import Json
from services.gateway.schemas import NEUTRAL, GenerationBody
from services.gateway.timeouts import HEADER as TIMEOUT

DESCRIPTION = """\
OpenAI's and vLLM's routes for generation, KServe's and Quorum's own for recommendation.

No field is ignored: one that is unknown or not supported is a 400 that names it. Null means the
default. A GET route answers HEAD as well; any other method is a 405 that says which there are.
Where the gateway has keys, every route but health and pages asks for one."""
ERRORS = {
    400: "The request is at fault; the message says where.",
    401: "There is no key, or it is not known.",
    403: "The key may not do this.",
    404: "There is no such model, version or path.",
    408: "The body was not whole in time.",
    413: "The body is too large.",
    429: "Too much at a time, in all or of this key.",
    499: "It was cancelled.",
    503: "Nobody can serve this now; nothing has been done.",
    504: "The time that the request may take is over.",
}
RETRIED = (429, 503)
SCHEMAS = "#/components/schemas/"
EXTRA: list[type[BaseModel]] = [rs.Error, ks.KServeError, InferInput, InferOutput, PackedTensor]


class _Untitled(GenerateJsonSchema):
    """Without a title for each field, which would only repeat its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


@cache
def document() -> Json:
    """The whole of it."""
    paths: dict[str, dict[str, Json]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Quorum", "version": VERSION, "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in GROUPS.items()],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "headers": _headers(),
            "responses": {
                f"{kind}{status}": _error(status, schema)
                for status in ERRORS
                for kind, schema in (("Error", rs.Error), ("KServeError", ks.KServeError))
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation) -> Json:
    right = RIGHTS.get(operation.path)
    is_open = operation.path in OPEN or operation.group == "Pages"
    statuses = {*operation.errors, *(() if is_open else (401,)), *((403, 429) if right else ())}
    kind = "KServeError" if operation.path.startswith("/v2") else "Error"
    responses: dict[str, Json] = {
        str(status): _response(operation, status) for status in operation.answers
    }
    for status in sorted(statuses - operation.answers.keys()):
        responses[str(status)] = {"$ref": f"#/components/responses/{kind}{status}"}
    found: Json = {
        "operationId": operation.id,
        "tags": [operation.group],
        "summary": operation.summary,
        # An installation without keys asks for none.
        "security": [] if is_open else [{"key": []}, {}],
        "parameters": _parameters(operation),
        "responses": responses,
    }
    if right is not None:
        found["description"] = f"Of a key, it needs the right `{right}`."
    if operation.body is not None:
        found["requestBody"] = _request(operation, operation.body)
    return found


def _parameters(operation: Operation) -> list[Json]:
    names = re.findall(r"{(\w+)}", operation.path)
    found: list[Json] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": PARAMETERS[name],
            "schema": {"type": "string", "minLength": 1},
        }
        for name in names
    ]
    given: list[tuple[str, str, Json]] = [
        ("x-request-id", "Comes back, if it is 1 to 128 of A-Za-z0-9_.:-", {"type": "string"})
    ]
    if operation.is_timed:
        text = "Seconds that the request may take; of it and `timeout`, the shorter holds."
        given.append((TIMEOUT, text, {"type": "number", "exclusiveMinimum": 0}))
    if BYTES in operation.takes:
        text = "Length of the JSON, where the bytes of tensors follow it."
        given.append((HEADER, text, {"type": "integer", "minimum": 0}))
    for name, text, schema in given:
        found.append({"name": name, "in": "header", "description": text, "schema": schema})
    return found


def _request(operation: Operation, body: type[BaseModel]) -> Json:
    content: Json = {}
    for kind in operation.takes:
        # Behind its JSON, bytes are not for a schema to say.
        content[kind] = {} if kind == BYTES else {"schema": _ref(body)}
    if operation.examples:
        examples = {name: {"value": value} for name, value in operation.examples.items()}
        content[JSON] = {"schema": _ref(body), "examples": examples}
    return {"required": True, "content": content}


def _response(operation: Operation, status: int) -> Json:
    headers = ["x-request-id"]
    if operation.path in RIGHTS:
        headers += [name for name in _headers() if name.startswith("x-ratelimit")]
    found: Json = {
        "description": {304: "As it was.", 503: "Not now."}.get(status, operation.summary),
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in headers},
    }
    kinds = operation.answers[status]
    if kinds:
        found["content"] = {kind: _content(operation, kind, of) for kind, of in kinds.items()}
    return found


def _content(operation: Operation, kind: str, of: Content) -> Json:
    if of is not None:
        return {"schema": _ref(of)}
    if kind == EVENTS and operation.events is not None:
        return {"schema": _event({"anyOf": [_ref(operation.events), _ref(rs.Error)]})}
    return {"schema": {"type": "string"}} if kind.startswith("text/") else {}


def _event(content: Json) -> Json:
    """Of each event of a stream, as OpenAPI 3.2 writes it."""
    told = {"type": "string", "contentMediaType": JSON, "contentSchema": content}
    last = {"const": "[DONE]"}
    return {
        "type": "object",
        "required": ["data"],
        "properties": {"data": {"anyOf": [told, last]}},
    }


def _error(status: int, schema: type[BaseModel]) -> Json:
    names = ["x-request-id"]
    if status in RETRIED:
        names.append("Retry-After")
    if status == 401:
        names.append("WWW-Authenticate")
    return {
        "description": ERRORS[status],
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
        "content": {JSON: {"schema": _ref(schema)}},
    }


def _headers() -> dict[str, Json]:
    texts = {
        "x-request-id": "Of the request, for logs and for who asks about it.",
        "Retry-After": "Seconds to wait before the next try.",
        "WWW-Authenticate": "Bearer.",
    }
    for what in ("requests", "tokens"):
        texts |= {
            f"x-ratelimit-limit-{what}": f"The key's {what} a minute.",
            f"x-ratelimit-remaining-{what}": "Those that are left now.",
            f"x-ratelimit-reset-{what}": "When all are there again, as in `1.5s`.",
        }
    return {
        name: {"description": text, "schema": {"type": "string"}} for name, text in texts.items()
    }


def _schemas() -> dict[str, Json]:
    """Of all bodies and answers, and of what they are made of."""
    used = {operation.body for operation in OPERATIONS} | {op.events for op in OPERATIONS}
    for operation in OPERATIONS:
        used |= {of for kinds in operation.answers.values() for of in kinds.values()}
    models = sorted({m for m in used if m is not None} | {*EXTRA}, key=lambda m: m.__name__)
    _, made = models_json_schema(
        [(model, "validation") for model in models],
        ref_template=SCHEMAS + "{model}",
        schema_generator=_Untitled,
    )
    schemas: dict[str, Any] = made["$defs"]
    for model in models:
        if issubclass(model, Body):
            _as_checked(model, schemas[model.__name__])
    parts = schemas[InferBody.__name__]["properties"]
    parts["inputs"]["items"] = _ref(InferInput)
    parts["outputs"]["items"] = _ref(InferOutput)
    return schemas


def _as_checked(model: type[Body], schema: dict[str, Any]) -> None:
    """What `schemas.check` does before the model sees a body: null is the default, and fields that
    are not supported may ask for nothing."""
    properties: dict[str, Any] = schema["properties"]
    for name, own in properties.items():
        if model.model_fields[name].is_required():
            continue
        text = {key: own.pop(key) for key in ("default", "description") if key in own}
        kinds = own["anyOf"] if own.keys() == {"anyOf"} else [own]
        # Without a kind, it takes anything already.
        properties[name] = {**_or_null(kinds), **text} if own else text
    if issubclass(model, GenerationBody):
        for name, values in sorted(NEUTRAL.items()):
            if name not in model.model_fields:
                properties[name] = {"enum": list(values)}
    for name, own in properties.items():
        if note := NOTES.get(name):
            own.setdefault("description", note)


def _or_null(kinds: list[Any]) -> Json:
    null = {"type": "null"}
    return {"anyOf": kinds if null in kinds else [*kinds, null]}


def _ref(model: type[BaseModel]) -> Json:
    return {"$ref": SCHEMAS + model.__name__}
