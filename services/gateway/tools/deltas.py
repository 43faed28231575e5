"""What an answer that may have calls in it is made of, and where a call's JSON ends. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.gateway.tools.schemas import MAX_DEPTH


@dataclass(frozen=True, slots=True)
class Content:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call begins, the one at `index` of the answer."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the JSON text of a call's arguments."""

    index: int
    text: str


Delta = Content | CallStart | CallArguments
Ids = Callable[[], str]
"""Gives 24 hexadecimal digits, others each time."""


def call_start(index: int, ids: Ids, name: str) -> CallStart:
    """With an id as OpenAI writes them."""
    return CallStart(index, f"call_{ids()}", name)


def say(deltas: list[Delta], text: str) -> None:
    """Adds content, if there is any."""
    if not text:
        return
    if deltas and isinstance(last := deltas[-1], Content):
        deltas[-1] = Content(last.text + text)
    else:
        deltas.append(Content(text))


def said(text: str) -> list[Delta]:
    """Content alone, if there is any."""
    return [Content(text)] if text else []


class Span:
    """Finds the end of a JSON object or list, or where the text stops looking like one. With
    `is_first` the first element of a list is all of it that is wanted: `rest` then closes it."""

    _OUTSIDE = frozenset(' \t\r\n{}[]:,"+-.0123456789eEtrufalsn')

    def __init__(self, *, is_first: bool = False) -> None:
        self.is_over = False
        self.is_broken = False
        self.rest = ""
        self._is_first = is_first
        self._depth = 0
        self._is_list = False
        self._is_string = False
        self._is_escaped = False

    def take(self, text: str) -> int:
        """How many characters belong to it."""
        for place, char in enumerate(text):
            if self._is_string:
                self._take_inside(char)
            else:
                self._take_outside(char)
            if self.is_broken:
                return place
            if self.is_over:
                return place + 1
        return len(text)

    def _take_inside(self, char: str) -> None:
        if char < " ":
            self.is_broken = True
        elif self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = True
        elif char == '"':
            self._is_string = False

    def _take_outside(self, char: str) -> None:
        if char == '"':
            self._is_string = True
        elif char in "{[":
            self._is_list = self._is_list if self._depth else char == "["
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            is_element = self._is_first and self._depth == 1 and self._is_list
            self.is_over = self._depth == 0 or is_element
            self.rest = "]" if is_element else ""
        # The first one is a bracket, or it is nothing.
        is_within = self._depth > 0 or self.is_over
        self.is_broken = char not in self._OUTSIDE or not is_within or self._depth > MAX_DEPTH
