"""Suffix lookup: what followed, in the recent outputs of all requests, on the way this one ends.

Pure. A table from n-grams to counts of the next token, over a ring of recent output tokens: when
the ring is full, the oldest tokens are taken out of the counts again, so memory is bounded.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

ORDERS = (8, 5, 3)
"""Lengths of the n-grams, tried from the longest: the longer the match, the surer the next."""
MIN_SHARE = 0.5
"""A proposal ends where no next token had at least this share of its n-gram's occurrences."""

Gram = tuple[int, ...]


@dataclass(slots=True)
class Followed:
    """One request: its last tokens up to here, and how many tokens came before them."""

    num_tokens: int = 0
    tail: list[int] = field(default_factory=list)


class Table:
    """Counts of next tokens by n-gram, of the last `max_tokens` tokens observed."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._observed: deque[tuple[Gram, int]] = deque()
        self._counts: dict[Gram, dict[int, int]] = {}

    def __len__(self) -> int:
        return len(self._observed)

    def observe(self, before: Sequence[int], token: int) -> None:
        """A token that followed `before`, of which the last ORDERS[0] tokens matter."""
        context = tuple(before[-ORDERS[0] :])
        self._observed.append((context, token))
        for gram in _grams(context):
            counts = self._counts.setdefault(gram, {})
            counts[token] = counts.get(token, 0) + 1
        if len(self._observed) > self._max_tokens:
            self._forget(*self._observed.popleft())

    def next(self, before: Sequence[int]) -> int | None:
        """The token that mostly followed the longest known end of `before`; ties to the lowest."""
        for gram in _grams(tuple(before[-ORDERS[0] :])):
            counts = self._counts.get(gram)
            if counts is not None:
                token, count = max(counts.items(), key=lambda item: (item[1], -item[0]))
                return token if count >= MIN_SHARE * sum(counts.values()) else None
        return None

    def _forget(self, context: Gram, token: int) -> None:
        for gram in _grams(context):
            counts = self._counts[gram]
            counts[token] -= 1
            if counts[token] == 0:
                del counts[token]
            if not counts:
                del self._counts[gram]


class SuffixModel:
    """A LookupModel over the outputs of all requests, this one's included."""

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self._max_requests = max_requests
        self._table = Table(max_tokens)
        self._followed: OrderedDict[str, Followed] = OrderedDict()

    def extend(
        self, request_id: str, start: int, tokens: Sequence[int], num_prompt_tokens: int
    ) -> bool:
        followed = self._followed.get(request_id)
        if followed is None:
            if start > 0:
                return False
            followed = self._followed[request_id] = Followed()
        if start > followed.num_tokens:
            return False
        for token in tokens[followed.num_tokens - start :]:
            # Prompts are not learned from: they are another's text, and may be long.
            if followed.num_tokens >= num_prompt_tokens > 0:
                self._table.observe(followed.tail, token)
            followed.num_tokens += 1
            followed.tail = [*followed.tail[-ORDERS[0] + 1 :], token]
        self._followed.move_to_end(request_id)
        if len(self._followed) > self._max_requests:
            self._followed.popitem(last=False)
        return True

    def propose(self, request_id: str, speculation_length: int) -> list[int]:
        followed = self._followed.get(request_id)
        text = [] if followed is None else list(followed.tail)
        proposal: list[int] = []
        while len(proposal) < speculation_length:
            token = self._table.next(text)
            if token is None:
                break
            proposal.append(token)
            text.append(token)
        return proposal

    def release(self, request_id: str) -> None:
        self._followed.pop(request_id, None)


def _grams(context: Gram) -> list[Gram]:
    return [context[-n:] for n in ORDERS if len(context) >= n]
