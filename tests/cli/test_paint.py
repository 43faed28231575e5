"""Colours of tokens: where each came from, however trace and text are cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.paint import COLOURS, SOURCES, Painter, Palette, Span, printable

PIECES = ["def", " read", "_", "lines", "", "(", "é", "):\n", "    "]


def trace(*tokens: tuple[str, str, Sequence[str]]) -> dict:
    told = [{"token": 1, "text": t, "source": s, "drafters": list(d)} for t, s, d in tokens]
    return {"rounds": [{"tokens": told}]}


def joined(spans: Sequence[Span]) -> list[tuple[str, str]]:
    """Neighbours of one style as one."""
    found: list[tuple[str, str]] = []
    for span in spans:
        if found and found[-1][1] == span.style:
            found[-1] = (found[-1][0] + span.text, span.style)
        elif span.text:
            found.append((span.text, span.style))
    return found


def test_each_token_has_the_colour_of_its_source() -> None:
    painter = Painter(Palette(["a", "b"]))
    painter.trace(
        trace(
            ("one ", "accepted", ["a", "b"]),
            ("two ", "accepted", ["b"]),
            ("three ", "corrected", []),
            ("four ", "bonus", ["a"]),
            ("five", "plain", []),
        )
    )
    assert joined(painter.paint("one two three four five")) == [
        ("one ", COLOURS[0]),
        ("two ", COLOURS[1]),
        ("three ", SOURCES["corrected"]),
        ("four ", SOURCES["bonus"]),
        ("five", SOURCES["plain"]),
    ]


def test_drafters_keep_their_colours_and_more_than_there_are_colours_share_them() -> None:
    palette = Palette()
    names = [f"d{n}" for n in range(len(COLOURS) + 1)]
    first = [palette.style("accepted", [name]) for name in names]
    assert first == [*COLOURS, COLOURS[0]]
    assert [palette.style("accepted", [name]) for name in names] == first
    assert [span.text for span in palette.legend()] == [*names, *SOURCES]


@given(
    st.lists(st.sampled_from(PIECES), max_size=12),
    st.lists(st.integers(0, 60), max_size=4),
    st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_however_the_text_is_cut_nothing_of_it_is_lost_or_miscoloured(
    tokens: list[str], cuts: list[int], are_corrected: list[bool]
) -> None:
    """The whole trace comes before the text, as where a stop string was on its way."""
    sources = ["corrected" if c else "plain" for c in are_corrected]
    painter = Painter(Palette())
    for token, source in zip(tokens, sources, strict=False):
        painter.trace(trace((token, source, [])))
    text = "".join(tokens)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    spans = [span for start, stop in pairwise(places) for span in painter.paint(text[start:stop])]
    wanted = [
        (letter, SOURCES[source])
        for token, source in zip(tokens, sources, strict=False)
        for letter in token
    ]
    assert [(letter, span.style) for span in spans for letter in span.text] == wanted


def test_text_that_comes_before_its_trace_stays_uncoloured_and_the_rest_is_not_shifted() -> None:
    painter = Painter(Palette())
    assert painter.paint("one t") == [Span("one t", "")]
    painter.trace(trace(("one ", "corrected", []), ("two ", "corrected", [])))
    painter.trace(trace(("three", "bonus", [])))
    assert joined(painter.paint("wo three")) == [("wo ", "yellow"), ("three", "bold")]


def test_a_trace_that_contradicts_the_text_is_not_believed_again() -> None:
    painter = Painter(Palette())
    painter.trace(trace(("one", "corrected", []), ("two", "corrected", [])))
    assert painter.paint("other") == [Span("other", "")]
    assert painter.paint("two") == [Span("two", "")]


def test_without_a_trace_all_is_plain() -> None:
    painter = Painter(Palette(["a"]))
    painter.trace({})
    assert painter.paint("text") == [Span("text", "")]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b]0;title\x07", "�]0;title�"),
        ("\x1b[2J", "�[2J"),
        ("\x9b2J\x7f\r", "�2J��"),
        ("naïve 漢字 🙂", "naïve 漢字 🙂"),
    ],
)
def test_a_model_cannot_command_the_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown
