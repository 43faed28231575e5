"""A chat's messages, and the tools that it may call: from bodies to what a template renders."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from services.gateway.options import Body
from services.gateway.text import TextModel
from services.gateway.tools.readers import Reader, reader
from services.gateway.tools.schemas import CallId, Mode, Tool, ToolCall, ToolChoice, chosen
from services.gateway.tools.templates import (
    Turn,
    described,
    format_of,
    grammar,
    mentions_tools,
    require_plain,
    template_messages,
)
from shared.errors import InvalidRequestError
from shared.generation import Grammar

MAX_CALLS = 128
ARGUMENT_MARKERS = ("[ARGS]", "[CALL_ID]")
"""Mistral's, within a call."""


class TextPart(Body):
    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """`tool_calls` are an assistant's; a tool's result answers the one of `tool_call_id`."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = Field(None, max_length=64)
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_CALLS)] | None = None
    tool_call_id: CallId | None = None
    # What OpenAI's client sends back of an answer, where there is nothing in it.
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[object], Field(max_length=0)] | None = None

    @property
    def text(self) -> str:
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content)

    def turn(self, place: int) -> Turn:
        """Raises InvalidRequestError for fields that do not go with the role."""
        where = f"messages[{place}]"
        if self.tool_calls and self.role != "assistant":
            raise InvalidRequestError(f"{where}: tool_calls are an assistant's", "messages")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise InvalidRequestError(
                f"{where}: tool_call_id goes with the role tool, and with no other", "messages"
            )
        if self.content is None and not self.tool_calls:
            raise InvalidRequestError(f"{where}: content is missing", "messages")
        return Turn(self.role, self.text, self.tool_calls or (), self.tool_call_id)


@dataclass(frozen=True, slots=True)
class Toolset:
    """What a chat may call, and whether it must. `parallel`: several at a time."""

    tools: Sequence[Tool]
    mode: Mode
    parallel: bool

    @staticmethod
    def of(
        tools: Sequence[Tool] | None, choice: ToolChoice | None, parallel: bool
    ) -> Toolset | None:
        """None where nothing is to be called. Raises InvalidRequestError."""
        mode = chosen(tools, choice)
        return None if mode.kind == "none" else Toolset(tools or (), mode, parallel)

    def grammar(self) -> Grammar | None:
        """What the text must be, where a call is forced."""
        schema = grammar(self.mode, self.tools, self.parallel)
        return None if schema is None else Grammar("json", schema, "tools")

    def kept_markers(self, text: TextModel) -> Sequence[str]:
        """Of the template: those by which calls are found in an answer."""
        form = format_of(text.template.source)
        return (form.opener, *ARGUMENT_MARKERS) if self.mode.kind == "auto" else ()

    def reader(self, text: TextModel) -> Reader:
        """Finds the calls in one answer."""
        names = [tool.function.name for tool in self.tools]
        form = format_of(text.template.source)
        return reader(self.mode, form, names, lambda: secrets.token_hex(12), self.parallel)

    def only_call(self, text: TextModel) -> Callable[[], Reader] | None:
        """Readers for who ends the text behind its first call, where one call is wanted and no
        grammar ends it there."""
        is_open = self.mode.kind == "auto" and not self.parallel
        return (lambda: self.reader(text)) if is_open else None


def chat_tokens(
    text: TextModel, messages: Sequence[ChatMessage], toolset: Toolset | None = None
) -> list[int]:
    """The chat as the model's template renders it, open for the answer. A template that knows no
    tools is told of them in a system message. Raises InvalidRequestError."""
    turns = [message.turn(place) for place, message in enumerate(messages)]
    tools = toolset.tools if toolset is not None else ()
    require_plain(tools, text.markers)
    if tools and not mentions_tools(text.template.source):
        turns = _told(turns, described(tools))
        tools = ()
    rendered = template_messages(turns, text.template.source)
    return text.encode_chat(rendered, [tool.described() for tool in tools])


def _told(turns: Sequence[Turn], what: str) -> list[Turn]:
    """With a system text in front, or behind the chat's own."""
    if turns and turns[0].role == "system":
        return [Turn("system", f"{turns[0].text}\n\n{what}"), *turns[1:]]
    return [Turn("system", what), *turns]
