"""Which piece of an answer came from where: the `trace` of a stream as coloured text. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COLOURS = ("green", "cyan", "magenta", "blue", "bright_green", "bright_cyan", "bright_magenta")
"""Of accepted tokens, by who proposed them; the paths of several drafters may agree."""
SOURCES = {"corrected": "yellow", "bonus": "bold", "plain": ""}
UNKNOWN = ""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of text of one style, as rich names styles."""

    text: str
    style: str


class Palette:
    """A colour for each drafter, in the order in which they are met."""

    def __init__(self, drafters: Iterable[str] = ()) -> None:
        self._colours: dict[str, str] = {}
        for drafter in drafters:
            self.style("accepted", [drafter])

    def style(self, source: str, drafters: Sequence[str]) -> str:
        """Of a token; accepted ones have the colour of the first who proposed them."""
        if source != "accepted" or not drafters:
            return SOURCES.get(source, UNKNOWN)
        name = drafters[0]
        colour = COLOURS[len(self._colours) % len(COLOURS)]
        return self._colours.setdefault(name, colour)

    def legend(self) -> list[Span]:
        """What the colours mean."""
        drafters = [Span(name, colour) for name, colour in self._colours.items()]
        return [*drafters, *(Span(name, style) for name, style in SOURCES.items())]


class Painter:
    """Text as it comes, in the colours of its tokens.

    A stream's text may lag behind its trace (a stop string may be on its way) or end before it; the
    text is what holds. Where the two contradict each other, the rest stays uncoloured.
    """

    def __init__(self, palette: Palette) -> None:
        self._palette = palette
        self._ahead: list[Span] = []
        """Traced, and not yet in the text."""
        self._owed = 0
        """Characters of the text that were not traced in time."""
        self._is_lost = False

    def trace(self, trace: Mapping[str, Any]) -> None:
        """Takes the `trace` of one chunk."""
        for round_ in trace.get("rounds", ()):
            for token in round_.get("tokens", ()):
                style = self._palette.style(token.get("source", ""), token.get("drafters", ()))
                text = str(token.get("text", ""))
                late, self._owed = text[self._owed :], max(0, self._owed - len(text))
                if late:
                    self._ahead.append(Span(late, style))

    def paint(self, text: str) -> list[Span]:
        """The styles of the next piece of text."""
        spans: list[Span] = []
        while text and self._ahead and not self._is_lost:
            first = self._ahead[0]
            length = min(len(first.text), len(text))
            if first.text[:length] != text[:length]:
                self._is_lost = True
                break
            spans.append(Span(text[:length], first.style))
            text = text[length:]
            rest = first.text[length:]
            self._ahead[:1] = [Span(rest, first.style)] if rest else []
        if text:
            self._owed += len(text)
            spans.append(Span(text, UNKNOWN))
        return spans


def printable(text: str) -> str:
    """Without what a terminal would take for a command."""
    return _CONTROL.sub("�", text)
