"""Calls out of an answer's text, piece by piece. What is no call comes out as content: nothing is
lost, nothing raises, and how the text is cut into pieces changes nothing. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Protocol

from services.gateway.tools.deltas import CallArguments, Delta, Ids, Span, call_start, said, say
from services.gateway.tools.markers import AutoReader
from services.gateway.tools.schemas import Mode
from services.gateway.tools.templates import Format

MAX_HEAD_CHARS = 1024
"""What is held back before a call's arguments."""


class Reader(Protocol):
    """Takes the text in, gives what has become certain."""

    num_calls: int

    @property
    def is_complete(self) -> bool:
        """Nothing that may still come is wanted: the generation can be ended."""
        ...

    def push(self, text: str) -> list[Delta]: ...

    def flush(self) -> list[Delta]:
        """What was held back, now that nothing follows."""
        ...


def reader(mode: Mode, form: Format, names: Collection[str], ids: Ids, parallel: bool) -> Reader:
    """The one for a mode other than `none`; `names` are those of the tools."""
    if mode.kind == "named" and mode.name is not None:
        return NamedReader(mode.name, ids)
    if mode.kind == "required":
        return RequiredReader(names, ids)
    return AutoReader(form, names, ids, parallel=parallel)


class NamedReader:
    """The text is the arguments of one call; they come out as they are written."""

    def __init__(self, name: str, ids: Ids) -> None:
        self.num_calls = 0
        self._name = name
        self._ids = ids
        self._span = Span()

    @property
    def is_complete(self) -> bool:
        return self._span.is_over

    def push(self, text: str) -> list[Delta]:
        if not text or self._span.is_broken or self._span.is_over:
            return said(text)
        deltas: list[Delta] = []
        if self.num_calls == 0:
            if text[0] != "{":
                self._span.is_broken = True
                return said(text)
            self.num_calls = 1
            deltas.append(call_start(0, self._ids, self._name))
        num_own = self._span.take(text)
        if num_own:
            deltas.append(CallArguments(0, text[:num_own]))
        say(deltas, text[num_own:])
        return deltas

    def flush(self) -> list[Delta]:
        return []


class RequiredReader:
    """The text is a list of calls, each with its name first, as `tools.grammar` has it. Arguments
    come out as they are written."""

    _HEAD = r'\{\s*"name"\s*:\s*"([a-zA-Z0-9_-]{1,64})"\s*,\s*"arguments"\s*:\s*(?=\{)'
    _FIRST = re.compile(r"\s*\[\s*" + _HEAD)
    _NEXT = re.compile(r"\s*\}\s*,\s*" + _HEAD)
    _END = re.compile(r"\s*\}\s*\]")
    _CUT = re.compile(r"\s*(\}\s*(,\s*\{?\s*)?)?")

    def __init__(self, names: Collection[str], ids: Ids) -> None:
        self.num_calls = 0
        self._names = names
        self._ids = ids
        self._held = ""
        self._span: Span | None = None
        self._is_over = False
        """What comes is no call any more."""
        self._is_complete = False

    @property
    def is_complete(self) -> bool:
        return self._is_complete

    def push(self, text: str) -> list[Delta]:
        deltas: list[Delta] = []
        while text:
            if self._is_over:
                say(deltas, text)
                break
            text = self._between(text, deltas) if self._span is None else self._within(text, deltas)
        return deltas

    def flush(self) -> list[Delta]:
        held, self._held = self._held, ""
        self._is_over = True
        # Of a list that was cut short behind a call, what is left of its frame says nothing.
        return [] if self.num_calls and self._CUT.fullmatch(held) else said(held)

    def _between(self, text: str, deltas: list[Delta]) -> str:
        """Outside of arguments. Gives what is to be read next."""
        text, self._held = self._held + text, ""
        window = text[:MAX_HEAD_CHARS]
        if self.num_calls and (end := self._END.match(window)):
            self._is_over = self._is_complete = True
            return text[end.end() :]
        head = (self._NEXT if self.num_calls else self._FIRST).match(window)
        if head is not None and head[1] in self._names:
            deltas.append(call_start(self.num_calls, self._ids, head[1]))
            self.num_calls += 1
            self._span = Span()
            return text[head.end() :]
        if head is not None or len(text) >= MAX_HEAD_CHARS:
            self._is_over = True
            return text
        self._held = text
        return ""

    def _within(self, text: str, deltas: list[Delta]) -> str:
        assert self._span is not None
        num_own = self._span.take(text)
        if num_own:
            deltas.append(CallArguments(self.num_calls - 1, text[:num_own]))
        self._is_over = self._span.is_broken
        if self._span.is_over:
            self._span = None
        return text[num_own:]
