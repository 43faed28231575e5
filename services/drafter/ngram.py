"""Prompt lookup: what followed the last time that the text ended as it ends now.

Pure. For each request an index from n-grams to where they ended last, extended by the new tokens
only. The longest n-gram that occurred before decides; the most recent occurrence is continued.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.drafter.model import NOTHING, Proposed

MAX_N, MIN_N = 4, 2


@dataclass(slots=True)
class Index:
    """One request: its tokens, and for each n-gram the index of the token after it."""

    tokens: list[int] = field(default_factory=list)
    after: dict[tuple[int, ...], int] = field(default_factory=dict)

    def extend(self, tokens: Sequence[int]) -> None:
        """Appends tokens and indexes the n-grams that now have a token after them."""
        first = len(self.tokens)
        self.tokens += tokens
        for end in range(first, len(self.tokens)):
            for n in range(MIN_N, min(MAX_N, end) + 1):
                self.after[tuple(self.tokens[end - n : end])] = end

    def propose(self, length: int) -> Proposed:
        """At most `length` tokens; copying runs on into what it proposes, as text that repeats
        does. The longer the n-gram, the surer."""
        for n in range(min(MAX_N, len(self.tokens)), MIN_N - 1, -1):
            start = self.after.get(tuple(self.tokens[-n:]))
            if start is not None:
                proposal: list[int] = []
                for place in range(start, start + length):
                    beyond = place - len(self.tokens)
                    proposal.append(self.tokens[place] if beyond < 0 else proposal[beyond])
                return Proposed(proposal, [float(n)] * length)
        return NOTHING


class NgramModel:
    """A LookupModel over the prompt and output of each request."""

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        self._indices: OrderedDict[str, Index] = OrderedDict()

    def extend(
        self, request_id: str, start: int, tokens: Sequence[int], num_prompt_tokens: int
    ) -> bool:
        index = self._indices.get(request_id)
        if start == 0:
            index = self._indices[request_id] = Index()
        if index is None or start > len(index.tokens):
            return False
        num_known = len(index.tokens) - start
        if index.tokens[start : start + len(tokens)] != list(tokens[:num_known]):
            return False
        index.extend(tokens[num_known:])
        self._indices.move_to_end(request_id)
        if len(self._indices) > self._max_requests:
            self._indices.popitem(last=False)
        return True

    def propose(self, request_id: str, speculation_length: int) -> Proposed:
        index = self._indices.get(request_id)
        return NOTHING if index is None else index.propose(speculation_length)

    def release(self, request_id: str) -> None:
        self._indices.pop(request_id, None)
