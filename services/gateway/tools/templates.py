"""Tools between OpenAI's shapes and a model's chat template: in which format the model calls them,
how it is told of them and of earlier calls, and what its text must be where a call is forced. Pure.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.gateway.options import MAX_GRAMMAR_CHARS
from services.gateway.tools.schemas import Function, Mode, Tool, ToolCall, arguments_of
from shared.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Format:
    """How a model writes calls: behind `opener`, with `closer` behind each, or without an opener at
    the beginning of an answer, if that begins with `bare`."""

    name: str
    opener: str
    closer: str = ""
    bare: str = ""


HERMES = Format("hermes", "<tool_call>", closer="</tool_call>")
"""`<tool_call>{"name": ..., "arguments": ...}</tool_call>`, as Hermes and Qwen write it."""
MISTRAL = Format("mistral", "[TOOL_CALLS]", bare="[")
"""`[TOOL_CALLS][{"name": ..., "arguments": ...}]`, or `[TOOL_CALLS]name[ARGS]{...}` for each."""
LLAMA3 = Format("llama3", "<|python_tag|>", closer=";", bare="{")
"""`{"name": ..., "parameters": ...}`, with or without the opener."""

_STATEMENT = re.compile(r"\{[{%](?:(?![%}]\}).)*\btools\b", re.DOTALL)
_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
# Formats that share a marker with one of ours and go on otherwise.
_OTHERS = ("<function=", "<arg_key>")
_MAPS = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_VALUES = frozenset(("const", "enum", "default", "examples"))


def mentions_tools(template_source: str) -> bool:
    """Whether a template tells the model of tools, in a format that is read here. If not, the
    model is told by `described`, and calls them in Hermes' format."""
    return _own_format(template_source) is not None


def format_of(template_source: str) -> Format:
    """The format that a template teaches; Hermes' where it teaches none."""
    return _own_format(template_source) or HERMES


def _own_format(source: str) -> Format | None:
    source = _COMMENT.sub("", source)
    if not _STATEMENT.search(source) or any(other in source for other in _OTHERS):
        return None
    if MISTRAL.opener in source:
        return MISTRAL
    if HERMES.opener in source:
        return HERMES
    is_llama = LLAMA3.opener in source or ("ipython" in source and '"parameters": ' in source)
    return LLAMA3 if is_llama else None


def described(tools: Sequence[Tool]) -> str:
    """A system text that tells a model of its tools, for templates that do not."""
    lines = "\n".join(json.dumps(tool.described(), ensure_ascii=False) for tool in tools)
    return (
        "You can call functions to help with the user's request. Their signatures are within "
        f"<tools></tools>:\n<tools>\n{lines}\n</tools>\n\n"
        "To call a function, write a JSON object with its name and its arguments within "
        "<tool_call></tool_call>, one for each call:\n"
        '<tool_call>\n{"name": <function-name>, "arguments": <arguments-object>}\n</tool_call>'
    )


def grammar(mode: Mode, tools: Sequence[Tool], parallel: bool) -> str | None:
    """The JSON schema that the text must follow, if a call is forced: the arguments of the named
    function, or a list of calls. Raises InvalidRequestError for one that is too large."""
    schema: dict[str, object]
    if mode.kind == "named":
        [function] = [t.function for t in tools if t.function.name == mode.name]
        schema = function.schema_of_arguments
    elif mode.kind == "required":
        schema = {
            "type": "array",
            "minItems": 1,
            "items": {"anyOf": [_call_schema(t.function, n) for n, t in enumerate(tools)]},
        }
        if not parallel:
            schema["maxItems"] = 1
    else:
        return None
    text = json.dumps(schema)
    if len(text) > MAX_GRAMMAR_CHARS:
        raise InvalidRequestError(
            f"tools: the schemas may have {MAX_GRAMMAR_CHARS} characters together", "tools"
        )
    return text


def _call_schema(function: Function, place: int) -> dict[str, object]:
    root = f"#/items/anyOf/{place}/properties/arguments"
    return {
        "type": "object",
        "properties": {
            "name": {"const": function.name},
            "arguments": _moved(function.schema_of_arguments, root),
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: object, root: str) -> object:
    """A schema as a part of a larger one, where it stands at `root`: its references go with it."""
    if isinstance(schema, list):
        return [_moved(part, root) for part in schema]
    if not isinstance(schema, dict):
        return schema
    moved: dict[str, object] = {}
    for key, part in schema.items():
        if key == "$ref" and isinstance(part, str) and part.startswith("#"):
            moved[key] = root + part[1:]
        elif key in _MAPS and isinstance(part, dict):
            moved[key] = {name: _moved(inner, root) for name, inner in part.items()}
        else:
            moved[key] = part if key in _VALUES else _moved(part, root)
    return moved


@dataclass(frozen=True, slots=True)
class Turn:
    """A message of a chat. `calls` are an assistant's; `call_id` says of a tool's result which
    call it answers."""

    role: str
    text: str
    calls: Sequence[ToolCall] = ()
    call_id: str | None = None
    name: str | None = None


def template_messages(turns: Sequence[Turn], template_source: str) -> list[dict[str, object]]:
    """The messages as a template takes them: arguments as objects, results with their function's
    name; all of it as text where the template knows no tools. Raises InvalidRequestError for a
    result that answers no call."""
    own = _own_format(template_source)
    messages: list[dict[str, object]] = []
    names: dict[str, str] = {}
    for place, turn in enumerate(turns):
        names |= {call.id: call.function.name for call in turn.calls}
        if turn.role == "tool" and turn.call_id not in names:
            raise InvalidRequestError(
                f"messages[{place}]: no call before it has the id {turn.call_id!r}", "messages"
            )
        if own is not None:
            messages.append(_message(turn, names, has_short_ids=own is MISTRAL))
        elif turn.role == "tool" and turns[place - 1].role == "tool":
            # One message, for templates whose roles must take turns.
            last = messages[-1]
            last["content"] = f"{last['content']}\n{_as_text(turn)['content']}"
        else:
            messages.append(_as_text(turn))
    return messages


def _message(turn: Turn, names: dict[str, str], *, has_short_ids: bool) -> dict[str, object]:
    message: dict[str, object] = {"role": turn.role, "content": turn.text}
    if turn.name is not None:
        message["name"] = turn.name
    if turn.calls:  # templates ask whether the field is there
        message["tool_calls"] = [
            {
                "id": _short(call.id) if has_short_ids else call.id,
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": arguments_of(call.function.arguments),
                },
            }
            for call in turn.calls
        ]
    if turn.role == "tool" and turn.call_id is not None:
        message["tool_call_id"] = _short(turn.call_id) if has_short_ids else turn.call_id
        message["name"] = names[turn.call_id]
    return message


def _as_text(turn: Turn) -> dict[str, object]:
    """Calls and results in Hermes' manner."""
    if turn.role == "tool":
        return {"role": "user", "content": f"<tool_response>\n{turn.text}\n</tool_response>"}
    parts = [turn.text] if turn.text or not turn.calls else []
    for call in turn.calls:
        said = {"name": call.function.name, "arguments": arguments_of(call.function.arguments)}
        text = json.dumps(said, ensure_ascii=False)
        parts.append(f"{HERMES.opener}\n{text}\n{HERMES.closer}")
    message: dict[str, object] = {"role": turn.role, "content": "\n".join(parts)}
    return message if turn.name is None else {**message, "name": turn.name}


def _short(call_id: str) -> str:
    """Mistral's templates take ids of nine letters and digits only."""
    if re.fullmatch("[a-zA-Z0-9]{9}", call_id):
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:9]


def without_markers(json_text: str, markers: Iterable[str]) -> str:
    """JSON that says the same, with no marker of a template in its strings."""
    for marker in markers:
        units = re.findall("....", marker[0].encode("utf-16-be").hex())
        first = "".join(f"\\u{unit}" for unit in units)
        json_text = json_text.replace(marker, first + marker[1:])
    return json_text


def require_plain(tools: Sequence[Tool], markers: Sequence[str]) -> None:
    """Raises InvalidRequestError for a tool in whose texts a marker of the template stands: some
    templates render them as they are."""
    for place, tool in enumerate(tools):
        text = json.dumps(tool.described(), ensure_ascii=False)
        found = next((marker for marker in markers if marker in text), None)
        if found is not None:
            raise InvalidRequestError(
                f"tools[{place}]: {found!r} is a marker of the model's template", "tools"
            )
