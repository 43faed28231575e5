"""Suffix lookup: what followed, in the recent outputs of all requests, on the way this one ends.

Pure. The last `max_tokens` output tokens lie in a ring, linked within their request; positions
whose last few tokens hash alike are chained, the newest first, as in deflate. Arrays of a fixed
size: memory is bounded by construction, and the oldest tokens are forgotten by being overwritten.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log

from services.drafter.model import Proposed

MIN_MATCH = 2
"""Tokens that must agree before a continuation is trusted."""
MAX_MATCH = 16
"""Tokens before a place that are compared; more make it no surer."""
MAX_CANDIDATES = 32
"""Newest places looked at in one lookup; bounds its time."""
MIN_SHARE = 0.5
"""A proposal ends where no next token has at least this share of the places still followed."""
_NONE = 0
"""No place; so that arrays of zeros, which take no memory before they are used, are empty."""


class History:
    """The tokens of recent outputs. Places are counted from 1, for ever; one is valid as long as
    the ring has not come round to it."""

    def __init__(self, max_tokens: int) -> None:
        self._size = max_tokens
        self._next_place = 1
        self._tokens = _zeros(max_tokens)
        self._before = _zeros(max_tokens)
        self._after = _zeros(max_tokens)
        self._older_alike = _zeros(max_tokens)
        self._newest = _zeros(1 << max_tokens.bit_length())

    def append(self, before: int, text: Sequence[int]) -> int:
        """Remembers the last token of `text`, which follows the token at the place `before`,
        if there is one. Returns its place."""
        place = self._next_place
        self._next_place += 1
        slot = place % self._size
        if self._is_valid(before):
            self._after[before % self._size] = place
        self._tokens[slot] = text[-1]
        self._before[slot] = before
        self._after[slot] = _NONE
        key = self._key(text)
        self._older_alike[slot] = self._newest[key]
        self._newest[key] = place
        return place

    def find(self, text: Sequence[int]) -> list[int]:
        """The places that share the longest end with `text`, at least MIN_MATCH tokens of it,
        and that something followed; of the MAX_CANDIDATES newest alike."""
        found: list[int] = []
        longest = MIN_MATCH
        place = self._newest[self._key(text)]
        for _ in range(MAX_CANDIDATES):
            if not self._is_valid(place):
                break
            if self.next(place) != _NONE:
                length = self._match(place, text)
                if length > longest:
                    longest, found = length, []
                if length == longest:
                    found.append(place)
            place = self._older_alike[place % self._size]
        return found

    def next(self, place: int) -> int:
        """The place after a valid place in the same output, or 0."""
        return self._after[place % self._size]

    def token(self, place: int) -> int:
        """The token at a valid place."""
        return self._tokens[place % self._size]

    def _match(self, place: int, text: Sequence[int]) -> int:
        """Tokens that agree, from `place` and from the end of `text` backwards."""
        length = 0
        limit = min(len(text), MAX_MATCH)
        while length < limit and self._is_valid(place):
            if self.token(place) != text[-1 - length]:
                break
            length += 1
            place = self._before[place % self._size]
        return length

    def _is_valid(self, place: int) -> bool:
        return max(1, self._next_place - self._size) <= place < self._next_place

    def _key(self, text: Sequence[int]) -> int:
        return hash(tuple(text[-MIN_MATCH:])) & (len(self._newest) - 1)


@dataclass(slots=True)
class Followed:
    """One request: the place of its last remembered token, and its last tokens."""

    num_prompt_tokens: int
    num_tokens: int = 0
    last: int = _NONE
    tail: list[int] = field(default_factory=list)


class SuffixModel:
    """A LookupModel over the outputs of all requests, this one's included. Of a prompt only the
    end is remembered, so that the same prompt finds its answer again."""

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self._max_requests = max_requests
        self._history = History(max_tokens)
        self._followed: OrderedDict[str, Followed] = OrderedDict()

    def extend(
        self, request_id: str, start: int, tokens: Sequence[int], num_prompt_tokens: int
    ) -> bool:
        followed = self._followed.get(request_id)
        if followed is None:
            if start > 0:
                return False
            followed = self._followed[request_id] = Followed(num_prompt_tokens)
        if start > followed.num_tokens:
            return False
        for token in tokens[followed.num_tokens - start :]:
            followed.tail = [*followed.tail[1 - MAX_MATCH :], token]
            followed.num_tokens += 1
            if followed.num_tokens > followed.num_prompt_tokens - MAX_MATCH:
                followed.last = self._history.append(followed.last, followed.tail)
        self._followed.move_to_end(request_id)
        if len(self._followed) > self._max_requests:
            self._followed.popitem(last=False)
        return True

    def propose(self, request_id: str, speculation_length: int) -> Proposed:
        """What followed most often, token by token; ties to the lowest token id. The margin is
        the logarithm of how many more times than anything else."""
        followed = self._followed.get(request_id)
        history = self._history
        places = [] if followed is None else history.find(followed.tail)
        proposal: list[int] = []
        margins: list[float] = []
        while len(proposal) < speculation_length:
            followers = [after for p in places if (after := history.next(p)) != _NONE]
            counts = Counter(history.token(after) for after in followers)
            token, count = max(counts.items(), key=lambda c: (c[1], -c[0]), default=(0, 0))
            if not followers or count < MIN_SHARE * len(places):
                break
            proposal.append(token)
            margins.append(log((count + 0.5) / (len(places) - count + 0.5)))
            places = [after for after in followers if history.token(after) == token]
        return Proposed(proposal, margins)

    def release(self, request_id: str) -> None:
        self._followed.pop(request_id, None)


def _zeros(size: int) -> memoryview[int]:
    """An array of 64-bit integers."""
    return memoryview(bytearray(8 * size)).cast("q")
