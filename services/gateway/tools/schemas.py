"""Bodies of tools as OpenAI shapes them: what a request offers, which of it the model is to call,
and the calls of earlier answers. What they mean together is `chosen`. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NoReturn

from pydantic import Field, field_validator

from services.gateway.options import Body
from shared.errors import InvalidRequestError

MAX_TOOLS = 128
MAX_DESCRIPTION_CHARS = 4096
MAX_ARGUMENTS_CHARS = 1 << 18
MAX_DEPTH = 64
"""Of a tool's parameters, and of a call's arguments."""

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
CallId = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.:|-]{1,128}$")]
"""Part of what a template renders, so no marker may hide in one."""


class Function(Body):
    """`strict` is taken at its word where a call is forced: its arguments follow the schema."""

    name: FunctionName
    description: str | None = Field(None, max_length=MAX_DESCRIPTION_CHARS)
    parameters: dict[str, object] | None = None
    strict: bool | None = None

    @field_validator("parameters")
    @classmethod
    def _is_of_an_object(cls, parameters: dict[str, object] | None) -> dict[str, object] | None:
        if parameters is not None:
            if parameters.get("type", "object") != "object":
                raise ValueError("parameters must be a JSON schema of the type object")
            if is_deep(parameters):
                raise ValueError(f"parameters may nest {MAX_DEPTH} deep")
        return parameters

    @property
    def schema_of_arguments(self) -> dict[str, object]:
        """That of an object. A function without parameters takes none."""
        if self.parameters is None:
            return {"type": "object", "properties": {}, "additionalProperties": False}
        return {"type": "object", **self.parameters}


class Tool(Body):
    type: Literal["function"]
    function: Function

    def described(self) -> dict[str, object]:
        """As templates take it. Some add the description to a text, so there always is one."""
        function = self.function
        parameters: dict[str, object] = {"type": "object", "properties": {}}
        return {
            "type": "function",
            "function": {
                "name": function.name,
                "description": function.description or "",
                "parameters": {**parameters, **(function.parameters or {})},
            },
        }


Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS)]


class ChosenFunction(Body):
    name: FunctionName


class NamedChoice(Body):
    """The one function to call."""

    type: Literal["function"]
    function: ChosenFunction


ToolChoice = Literal["none", "auto", "required"] | NamedChoice


class CalledFunction(Body):
    name: FunctionName
    arguments: str = Field(max_length=MAX_ARGUMENTS_CHARS)
    """JSON text of an object."""

    @field_validator("arguments")
    @classmethod
    def _is_an_object(cls, arguments: str) -> str:
        try:
            arguments_of(arguments)
        except ValueError as error:
            raise ValueError(f"arguments must be the JSON text of an object: {error}") from error
        return arguments


class ToolCall(Body):
    """A call that the assistant made earlier."""

    id: CallId
    type: Literal["function"]
    function: CalledFunction


@dataclass(frozen=True, slots=True)
class Mode:
    """Whether calls may, must, or must not come; `name` is that of the one function, with the kind
    `named`."""

    kind: Literal["none", "auto", "required", "named"]
    name: str | None = None


def chosen(tools: Sequence[Tool] | None, tool_choice: ToolChoice | None) -> Mode:
    """What was asked for. Raises InvalidRequestError for tools of one name, and for a choice of
    what is not there."""
    names = [tool.function.name for tool in tools or ()]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InvalidRequestError(f"tools[{place}]: there is a tool {name!r} already", "tools")
    if not names:
        # These two ask for what happens anyway.
        if tool_choice in (None, "none", "auto"):
            return Mode("none")
        raise InvalidRequestError("tool_choice: there are no tools to choose from", "tool_choice")
    if isinstance(tool_choice, NamedChoice):
        name = tool_choice.function.name
        if name not in names:
            raise InvalidRequestError(f"tool_choice: {name!r} is none of the tools", "tool_choice")
        return Mode("named", name)
    return Mode(tool_choice or "auto")


def arguments_of(text: str) -> dict[str, object]:
    """The object that a JSON text is of. Raises ValueError for any other text, and for one that
    could not be passed on: what is not finite, half a character, endless nesting."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error
    if not isinstance(value, dict):
        raise ValueError("it is something else")
    if is_deep(value):
        raise ValueError(f"it may nest {MAX_DEPTH} deep")
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value


def is_deep(value: object) -> bool:
    """Whether it nests deeper than what is walked through by recursion may."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[object] = []
        for outer in level:
            if isinstance(outer, dict):
                inner += outer.values()
            elif isinstance(outer, list):
                inner += outer
        if not inner:
            return False
        level = inner
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
