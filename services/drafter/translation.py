"""One text in two vocabularies: a target's tokens as a draft model's own, and its proposals back.

Pure. Tokens are mapped by the text that they stand for, as universal assisted generation does;
markers (special tokens) are mapped one by one, and cut the text into pieces. What is wrong here
costs proposals, never a token of the target.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil
from typing import Protocol

from services.drafter.model import NOTHING, Proposed

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What bytes that are no whole character decode to."""
MAX_PENDING = 4
"""Newest tokens that may wait for the rest of a character, which has at most four bytes."""
DECODE_CONTEXT = 8
"""Tokens before the newest that are decoded with them: what a token says may depend on it."""
OVERLAP = 64
"""Characters before a text that are encoded with it, so that its tokens are those of one text."""
WINDOW = 512
"""Characters that are encoded anew with each extension; what lies further back is settled."""
MAX_TRIES = 8
"""Places that are looked at, where one is wanted that changes nothing behind it."""
MAX_RATIO = 4.0
"""Own tokens asked for in the place of one of the target's, at most."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokens of a text, and the characters [start, end) that each stands for. Tokens that are
    parts of one character each have it as a whole."""

    tokens: list[int]
    spans: list[tuple[int, int]]

    def index_at(self, place: int) -> int | None:
        """The first token behind so many characters; None where a token goes across."""
        first = bisect_left(self.spans, (place, 0))
        if first > 0 and self.spans[first - 1][1] > place:
            return None
        return first


class Vocabulary(Protocol):
    """A tokenizer without its markers: `encode` takes them for ordinary text."""

    def encode(self, text: str) -> Encoded: ...
    def decode(self, tokens: Sequence[int]) -> str: ...


@dataclass(frozen=True, slots=True)
class Pair:
    """The target's vocabulary and the draft model's own. `markers` maps the target's to own ones,
    `own_markers` the other way; None where there is no such marker. `prefix` are own tokens that
    begin every context."""

    target: Vocabulary
    own: Vocabulary
    markers: Mapping[int, int | None]
    own_markers: Mapping[int, int | None]
    prefix: Sequence[int]


class TextStream:
    """Tokens in, text out, up to the last whole character: that of the first `num_whole`."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.tokens: list[int] = []
        self.text = ""
        self.num_whole = 0
        self._start = 0
        self._num_out = 0
        """Characters of the text of tokens[_start:num_whole] that are out."""

    @property
    def pending(self) -> list[int]:
        """The newest tokens, which are not in the text yet."""
        return self.tokens[self.num_whole :]

    def push(self, tokens: Sequence[int]) -> None:
        self.tokens += tokens
        end, recent = self._whole()
        if end == self.num_whole:
            return
        self.text += recent[self._num_out :]
        self.num_whole, self._num_out = end, len(recent)
        if end - self._start > 4 * DECODE_CONTEXT:
            self._begin_later(recent)

    def _whole(self) -> tuple[int, str]:
        """How many tokens end with a whole character, and the recent text up to there."""
        last = len(self.tokens)
        for end in range(last, max(self.num_whole, last - MAX_PENDING), -1):
            text = self._vocabulary.decode(self.tokens[self._start : end])
            # A first space may be nothing until it has a word.
            if text and not text.endswith(REPLACEMENT):
                return end, text
        if last - self.num_whole <= MAX_PENDING:
            return self.num_whole, ""
        # Nothing can complete these any more: they are no characters.
        return last, self._vocabulary.decode(self.tokens[self._start :])

    def _begin_later(self, recent: str) -> None:
        """Moves the start of what is decoded, where that changes no character behind it."""
        newest = self.num_whole - DECODE_CONTEXT
        for start in range(newest, newest - MAX_TRIES, -1):
            kept = self._vocabulary.decode(self.tokens[start : self.num_whole])
            if kept and recent.endswith(kept):
                self._start, self._num_out = start, len(kept)
                return


class TokenStream:
    """A growing text in, its tokens out. Of a long text only the end is encoded anew."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.tokens: list[int] = []
        self._start = 0
        """The character at which the window begins that is encoded."""
        self._settled = 0
        """The character up to which tokens stay, the first `_num_settled` of them."""
        self._num_settled = 0

    def update(self, text: str) -> None:
        """`text` begins with that of the last update."""
        encoded = self._vocabulary.encode(text[self._start :])
        first = encoded.index_at(self._settled - self._start)
        if first is None:
            # What came now is one token with something settled.
            self._start = self._settled = self._num_settled = first = 0
            encoded = self._vocabulary.encode(text)
        self.tokens[self._num_settled :] = encoded.tokens[first:]
        if len(text) - self._start > WINDOW:
            self._settle(text, encoded)

    def _settle(self, text: str, encoded: Encoded) -> None:
        """Moves the window towards the end, where the tokens behind its overlap stay the same."""
        newest = bisect_left(encoded.spans, (len(text) - self._start - OVERLAP, 0))
        for index in range(newest, max(0, newest - MAX_TRIES), -1):
            place = encoded.spans[index - 1][1]
            settled = self._start + place
            start = max(0, settled - OVERLAP)
            again = self._vocabulary.encode(text[start:])
            first = again.index_at(settled - start)
            if first is None or encoded.index_at(place) != index:
                continue
            if again.tokens[first:] == encoded.tokens[index:]:
                self._num_settled = len(self.tokens) - (len(encoded.tokens) - index)
                self._start, self._settled = start, settled
                return


class Translation:
    """One request's context: `given` in the target's tokens, `own` in the draft model's."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self.given: list[int] = []
        self.own: list[int] = list(pair.prefix)
        self._begin_piece()

    def extend(self, start: int, tokens: Sequence[int]) -> None:
        """Takes in the context from `start` on, which is at most `len(given)`."""
        known = self.given[start : start + len(tokens)]
        if known == list(tokens[: len(known)]) and start + len(tokens) >= len(self.given):
            self._push(tokens[len(known) :])
            return
        kept = self.given[:start]
        self.given, self.own = [], list(self._pair.prefix)
        self._begin_piece()
        self._push([*kept, *tokens])

    def num_own(self, length: int) -> int:
        """Own tokens to ask for where `length` of the target's are wanted: as many as the context
        has taken so far, and one that shows where the last word ends."""
        ratio = len(self.own) / max(1, len(self.given))
        return ceil(length * min(max(ratio, 1 / MAX_RATIO), MAX_RATIO)) + 1 if length else 0

    def back(self, proposed: Proposed, length: int) -> Proposed:
        """What was proposed behind `own`, as at most `length` tokens of the target's behind
        `given`. A token is as sure as the least sure own token within it, and one that what comes
        next may lengthen not at all."""
        if not proposed.tokens:
            return NOTHING
        markers = self._pair.own_markers
        end = next((n for n, token in enumerate(proposed.tokens) if token in markers), None)
        added, ends = self._text_of(proposed.tokens[:end])
        encoded = self._encode_behind(added)
        pending = self._text.pending
        if encoded.tokens[: len(pending)] != pending:
            return NOTHING
        tokens = encoded.tokens[len(pending) :]
        spans = encoded.spans[len(pending) :]
        margins = [
            _lowest(proposed.margins, bisect_right(ends, start), bisect_left(ends, stop) + 1)
            for start, stop in spans
        ]
        if margins and end is None:
            margins[-1] = 0.0
        ready = ends[min(proposed.num_ready, len(ends)) - 1] if proposed.num_ready and ends else 0
        num_ready = sum(stop <= ready for _, stop in spans)
        marker = None if end is None else markers[proposed.tokens[end]]
        if end is not None and marker is not None:
            tokens, margins = [*tokens, marker], [*margins, proposed.margins[end]]
        return Proposed(tokens[:length], margins[:length], min(num_ready, length))

    def _push(self, tokens: Sequence[int]) -> None:
        self.given += tokens
        for is_marker, group in groupby(tokens, self._pair.markers.__contains__):
            if is_marker:
                for token in group:
                    self._mark(self._pair.markers[token])
            else:
                self._text.push(list(group))
                self._tokens.update(self._text.text)
                self.own[self._piece :] = self._tokens.tokens

    def _mark(self, marker: int | None) -> None:
        is_begun = len(self.own) > len(self._pair.prefix)
        # The target's own beginning of a text is not told twice.
        if marker is not None and (is_begun or marker not in self._pair.prefix):
            self.own.append(marker)
        self._begin_piece()

    def _begin_piece(self) -> None:
        """What follows is encoded without what came before."""
        self._piece = len(self.own)
        self._text = TextStream(self._pair.target)
        self._tokens = TokenStream(self._pair.own)

    def _text_of(self, proposed: Sequence[int]) -> tuple[str, list[int]]:
        """The whole characters that these tokens add, and how many of them are there with each."""
        before, known = self._newest_own()
        added, ends = "", []
        for number in range(1, len(proposed) + 1):
            text = self._pair.own.decode([*before, *proposed[:number]])
            if text.startswith(known):
                text = text[len(known) :].rstrip(REPLACEMENT)
                added = text if len(text) > len(added) else added
            ends.append(len(added))
        return added, ends

    def _newest_own(self) -> tuple[list[int], str]:
        """The end of `own` and its text; it begins where a character does."""
        piece = self.own[self._piece :]
        for length in range(DECODE_CONTEXT, DECODE_CONTEXT + MAX_TRIES):
            known = self._pair.own.decode(piece[-length:])
            if self._text.text.endswith(known):
                return piece[-length:], known
        return piece, self._pair.own.decode(piece)

    def _encode_behind(self, added: str) -> Encoded:
        """The target's tokens of a text that follows what is given, their spans within it."""
        before = self._text.text[-OVERLAP:]
        encoded = self._pair.target.encode(before + added)
        first = encoded.index_at(len(before))
        if first is None:
            # One token with what is given already, which the target wrote in smaller pieces.
            return self._pair.target.encode(added)
        spans = [(start - len(before), end - len(before)) for start, end in encoded.spans[first:]]
        return Encoded(encoded.tokens[first:], spans)


def _lowest(margins: Sequence[float], start: int, end: int) -> float:
    return min(margins[start:end], default=0.0)
