"""docs/api.md: every route, and every field that OpenAI's and vLLM's clients may send, supported or
refused. Made of the code.

    python -m services.gateway.reference.api_table [--check] [FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from services.gateway.doorkeeper import OPEN, RIGHTS
from services.gateway.reference.field_notes import NOTES
from services.gateway.reference.foreign_fields import (
    OPENAI_CHAT,
    OPENAI_COMPLETION,
    VLLM_CHAT,
    VLLM_COMPLETION,
)
from services.gateway.reference.openapi import DESCRIPTION, ERRORS, document
from services.gateway.reference.operations import GROUPS, OPERATIONS, Operation
from services.gateway.schemas import NEUTRAL, ChatBody, CompletionBody, GenerationBody

FILE = Path("docs/api.md")
Schema = Mapping[str, Any]
INTRODUCTION = """\
# The gateway's API

Made by `python -m services.gateway.reference.api_table` of the code; a test holds it against a
gateway.
`GET /openapi.json` has the whole of it as OpenAPI 3.1, `GET /docs` a page to read and to try it.
"""
FIELDS = """\
A field is supported, or refused with a 400 whose `param` names it and whose message is the one
below. Values that ask for nothing beside what happens anyway are taken. Any other field is refused
with `unknown field 'NAME'`. vLLM takes OpenAI's fields too; the table says whose a field is first.
Messages hold text: images, audio and files are refused."""


def render() -> str:
    """The whole page."""
    parts = [
        INTRODUCTION,
        DESCRIPTION,
        "\n## Routes\n",
        *_routes(),
        "\n## Errors\n",
        'OpenAI\'s error object, `{"error": {"message", "type", "param", "code"}}`; under '
        '`/v2` KServe\'s, `{"error": "..."}`.\n',
        "| status | |\n|---|---|",
        *(f"| {status} | {text} |" for status, text in sorted(ERRORS.items())),
        "\n## Fields of a generation\n",
        FIELDS,
        *_fields("/v1/completions", CompletionBody, OPENAI_COMPLETION, VLLM_COMPLETION),
        *_fields("/v1/chat/completions", ChatBody, OPENAI_CHAT, VLLM_CHAT),
        "\n### Parts of both\n",
        "Of these, null is taken where it is the default.",
        *_parts(CompletionBody, ChatBody),
    ]
    return "\n".join(parts) + "\n"


def refusal(name: str) -> str:
    """The message for a field that is not supported, as schemas.py gives it."""
    return f"{name} is not supported"


def _routes() -> Iterator[str]:
    for group, text in GROUPS.items():
        yield f"### {group}\n\n{text}\n\n| route | | a key needs |\n|---|---|---|"
        for operation in OPERATIONS:
            if operation.group == group:
                route = f"`{operation.method.upper()} {operation.path}`"
                yield f"| {route} | {operation.summary} | {_key(operation)} |"
        yield ""


def _key(operation: Operation) -> str:
    if operation.path in OPEN or operation.group == "Pages":
        return "open"
    right = RIGHTS.get(operation.path)
    return "any" if right is None else f"`{right}`"


def _fields(
    path: str, body: type[GenerationBody], openai: Sequence[str], vllm: Sequence[str]
) -> Iterator[str]:
    properties: Schema = _schemas()[body.__name__]["properties"]
    ours = [name for name in body.model_fields if name not in (*openai, *vllm)]
    yield f"\n### `POST {path}`\n\n| field | of | | range | default | |\n|---|---|---|---|---|---|"
    for name in sorted({*openai, *vllm, *ours}):
        of = [who for who, names in (("OpenAI", openai), ("vLLM", vllm)) if name in names]
        who = ", ".join(of) or "Quorum"
        note = NOTES.get(name, "")
        if name in body.model_fields:
            kind, default = _kind(properties[name]), _default(body, name)
            yield f"| `{name}` | {who} | supported | {kind} | {default} | {note} |"
        else:
            taken = ", ".join(_json(value) for value in NEUTRAL[name])
            how = f"refused: `{refusal(name)}`"
            yield f"| `{name}` | {who} | {how} | {taken} only | | {note} |"


def _parts(*bodies: type[GenerationBody]) -> Iterator[str]:
    """The objects that fields are made of."""
    schemas = _schemas()
    waiting = [body.__name__ for body in bodies]
    found: list[str] = []
    while waiting:
        for name in _references(schemas[waiting.pop()]):
            if name not in found:
                found.append(name)
                waiting.append(name)
    for name in sorted(found):
        schema = schemas[name]
        required = schema.get("required", ())
        text = " ".join(schema.get("description", "").split())
        yield f"\n`{name}`{': ' if text else ''}{text}\n"
        yield "| field | | default |\n|---|---|---|"
        for field, own in schema["properties"].items():
            default = "required" if field in required else _json(own.get("default"))
            yield f"| `{field}` | {_kind(own)} | {default} |"


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"].rpartition("/")[2]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _schemas() -> Schema:
    components = cast(Schema, document()["components"])
    return cast(Schema, components["schemas"])


def _default(body: type[GenerationBody], name: str) -> str:
    field = body.model_fields[name]
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return "" if default is None else _json(default)


def _kind(schema: Schema) -> str:
    """What a value must be, in a few words."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "enum" in schema or "const" in schema:
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        return ", ".join(map(_json, values))
    if "anyOf" in schema:
        kinds = [_kind(one) for one in schema["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        kind = f"list of {_kind(schema.get('items', {}))}"
    elif kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        kind = f"map of {_kind(schema['additionalProperties'])}"
    return " ".join([kind, *_limits(schema)])


def _limits(schema: Schema) -> Iterator[str]:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    for key, sign in signs.items():
        if key in schema:
            yield f"{sign} {_number(schema[key])}"
    if "maxLength" in schema:
        yield f"of {schema.get('minLength', 0)} to {schema['maxLength']} characters"
    for key in ("maxItems", "maxProperties"):
        if key in schema:
            yield f"(at most {schema[key]})"


def _number(value: float) -> str:
    power = abs(value) == 1 << 63
    return f"{'-' if value < 0 else ''}2^63" if power else f"{value:g}"


def _json(value: object) -> str:
    return f"`{json.dumps(value)}`"


def main(arguments: Sequence[str]) -> int:
    """Writes the page, or says whether it is current."""
    parser = argparse.ArgumentParser(
        prog="services.gateway.reference.api_table", description=main.__doc__
    )
    parser.add_argument("file", nargs="?", type=Path, default=FILE, help="the page")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it is old")
    asked = parser.parse_args(arguments)
    file: Path = asked.file
    page = render()
    if not asked.check:
        file.write_text(page)
        return 0
    is_current = file.is_file() and file.read_text() == page
    if not is_current:
        print(
            f"{file} is old; python -m services.gateway.reference.api_table makes it anew",
            file=sys.stderr,
        )
    return 0 if is_current else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
