"""Calls that a model makes of its own accord, found by the markers of its format. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection

from services.gateway.stops import overlap
from services.gateway.tools.deltas import CallArguments, Delta, Ids, Span, call_start, said, say
from services.gateway.tools.schemas import arguments_of
from services.gateway.tools.templates import Format

MAX_CALL_CHARS = 1 << 18
"""What is held back of a call until it is known to be one."""
MAX_NAMING_CHARS = 256
"""What is held back before its JSON."""
MAX_BLANK_CHARS = 1024
"""White space that is held back, in case a call follows."""
_FIELDS = frozenset(("name", "arguments", "parameters", "id", "type"))


class _Candidate:
    """What may turn out to be a call, from behind its opener on: a JSON object or list of them, or
    with Mistral a name before its arguments."""

    _HEAD_CHARS = re.compile(r"[a-zA-Z0-9_\[\]\s-]")
    _NAMED = re.compile(
        r"\s*([a-zA-Z0-9_-]{1,64})(?:\[CALL_ID\][a-zA-Z0-9]{1,64})?(?:\[ARGS\])?\s*"
    )

    def __init__(self, form: Format, *, is_alone: bool) -> None:
        """`is_alone`: of a list, the first one is all that is wanted."""
        self.text = ""
        self.is_broken = False
        self._may_be_named = form.name == "mistral"
        self._span = Span(is_first=is_alone)
        self._head: str | None = None
        """What stood before the JSON, once that has begun."""

    @property
    def is_over(self) -> bool:
        return self._span.is_over

    def take(self, text: str) -> int:
        """How many characters belong to it."""
        num_head = 0 if self._head is not None else self._take_head(text)
        num_own = num_head
        if self._head is not None:
            num_own += self._span.take(text[num_head : self._room])
            self.is_broken = self._span.is_broken
        self.text += text[:num_own]
        self.is_broken = self.is_broken or (self._room == 0 and not self.is_over)
        return num_own

    @property
    def _room(self) -> int:
        return MAX_CALL_CHARS - len(self.text)

    def _take_head(self, text: str) -> int:
        for place, char in enumerate(text):
            before = self.text + text[:place]
            if char == "{" or (char == "[" and not before.strip()):
                self._head = before
                return place
            is_fit = self._HEAD_CHARS.match(char) if self._may_be_named else char.isspace()
            if not is_fit or len(before) == MAX_NAMING_CHARS:
                self.is_broken = True
                return place
        return len(text)

    def calls(self, names: Collection[str]) -> list[tuple[str, str]]:
        """Names and arguments, once it is over; none if there is a fault in one of them."""
        assert self._head is not None
        json_text = self.text[len(self._head) :] + self._span.rest
        try:
            if self._head.strip():
                found = self._NAMED.fullmatch(self._head)
                value = [{"name": found and found[1], "arguments": arguments_of(json_text)}]
            else:
                value = json.loads(json_text)
            calls = [_call(part, names) for part in (value if isinstance(value, list) else [value])]
        except (ValueError, RecursionError):
            return []
        return calls


class AutoReader:
    """The text is content, and calls by their markers in it. White space around calls belongs to
    them. With `parallel` false one call is all that is wanted."""

    def __init__(self, form: Format, names: Collection[str], ids: Ids, *, parallel: bool) -> None:
        self.num_calls = 0
        self._form = form
        self._names = names
        self._ids = ids
        self._parallel = parallel
        self._held = ""
        """White space at the beginning, and what may be that of an opener; with a candidate, what
        stands before its text."""
        self._candidate: _Candidate | None = None
        self._is_fresh = True
        """Nothing but white space has come since the beginning, or since a call."""
        self._may_close = False
        """A call's closer may come."""

    @property
    def is_complete(self) -> bool:
        return self.num_calls > 0 and not self._parallel

    def push(self, text: str) -> list[Delta]:
        deltas: list[Delta] = []
        while text and not self.is_complete:
            if self._candidate is None:
                text = self._plain(text, deltas)
            else:
                text = self._call(self._candidate, text, deltas)
        return deltas

    def flush(self) -> list[Delta]:
        held, candidate = self._held, self._candidate
        self._held, self._candidate = "", None
        if candidate is not None:
            return said(held + candidate.text)
        return [] if self._is_fresh and self.num_calls and not held.strip() else said(held)

    def _plain(self, text: str, deltas: list[Delta]) -> str:
        """Outside of calls. Gives what is to be read next."""
        text, self._held = self._held + text, ""
        num_blank = len(text) - len(text.lstrip())
        self._is_fresh = self._is_fresh and num_blank <= MAX_BLANK_CHARS
        if self._is_fresh:
            rest = text[num_blank:]
            if self._may_close and self._form.closer.startswith(rest[: len(self._form.closer)]):
                self._may_close = len(rest) < len(self._form.closer)
                self._held = text if self._may_close else ""
                return rest[len(self._form.closer) :]
            if self._begins_bare(rest):
                self._held = text[:num_blank]
                self._candidate = _Candidate(self._form, is_alone=not self._parallel)
                return rest
        return self._to_opener(text, deltas)

    def _begins_bare(self, rest: str) -> bool:
        """Whether a call may begin here without an opener."""
        bare, opener = self._form.bare, self._form.opener
        is_bare = bool(bare) and rest.startswith(bare)
        return is_bare and not opener.startswith(rest[: len(opener)])

    def _to_opener(self, text: str, deltas: list[Delta]) -> str:
        opener = self._form.opener
        place = text.find(opener)
        keep = overlap(text, opener) if place < 0 else 0
        content = text[: place if place >= 0 else len(text) - keep]
        if not self._is_fresh or content.strip():
            say(deltas, content)
            text = text[len(content) :]
            place -= len(content)
            self._is_fresh = False
        if place < 0:
            self._held = text
            return ""
        self._held = text[: place + len(opener)]
        self._candidate = _Candidate(self._form, is_alone=not self._parallel)
        return text[place + len(opener) :]

    def _call(self, candidate: _Candidate, text: str, deltas: list[Delta]) -> str:
        """Within what may be a call. Gives what is to be read next."""
        text = text[candidate.take(text) :]
        if not candidate.is_over and not candidate.is_broken:
            return text
        calls = candidate.calls(self._names) if candidate.is_over else []
        for name, arguments in calls:
            deltas.append(call_start(self.num_calls, self._ids, name))
            deltas.append(CallArguments(self.num_calls, arguments))
            self.num_calls += 1
        whole = self._held + candidate.text
        self._held, self._candidate = "", None
        self._is_fresh = bool(calls)
        self._may_close = bool(calls) and bool(self._form.closer)
        if calls:
            return text
        # An opener may begin in the last that was taken.
        keep = overlap(candidate.text, self._form.opener)
        say(deltas, whole[: len(whole) - keep])
        return whole[len(whole) - keep :] + text


def _call(part: object, names: Collection[str]) -> tuple[str, str]:
    """A call's name and arguments. Raises ValueError for what is none."""
    if not isinstance(part, dict) or not part.keys() <= _FIELDS:
        raise ValueError("no call")
    name = part.get("name")
    found = [part[key] for key in ("arguments", "parameters") if key in part]
    if not isinstance(name, str) or name not in names:
        raise ValueError("no tool of this name")
    if len(found) != 1 or not isinstance(found[0], dict):
        raise ValueError("no arguments")
    text = json.dumps(found[0], ensure_ascii=False, allow_nan=False)
    text.encode()  # refuses half a character
    return name, text
