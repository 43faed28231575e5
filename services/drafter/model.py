"""What a draft model is to the service: it follows requests and proposes what comes next."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from shared.generation import Sampling


@dataclass(frozen=True, slots=True)
class Want:
    """One request that wants a proposal of `speculation_length` tokens, and with `ahead` its next
    one prepared as if all of this one were accepted."""

    request_id: str
    speculation_length: int
    sampling: Sampling
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class Proposed:
    """What a model proposes, how sure it is of each token (the larger the surer, on a scale of its
    own), and how many of them had been drafted before they were asked for."""

    tokens: list[int]
    margins: list[float]
    num_ready: int = 0


NOTHING = Proposed([], [])
T = TypeVar("T")
Steps = Generator[None, None, T]
"""Work that gives way between two passes of a model; what it returns is its result."""


def finish(steps: Steps[T]) -> T:
    """Takes all of them; their result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


class DraftModel(Protocol):
    """Keeps the state of a bounded number of requests; the least recently used one goes first.
    Calls block and come one after the other."""

    kind: str
    """`neural`, or `lookup` for one that costs next to nothing."""

    def extend(
        self, request_id: str, start: int, tokens: Sequence[int], num_prompt_tokens: int
    ) -> bool:
        """Takes in the context from `start` on (0: all of it). False if that does not join what
        is known of the request; the caller then needs the whole context."""

    def propose(self, wants: Sequence[Want]) -> Steps[list[Proposed]]:
        """A proposal for each known request, at most as long as wanted, possibly empty."""

    def draft_ahead(self, is_asked: Callable[[], bool]) -> int:
        """Prepares the next proposals, until there is nothing more to prepare or `is_asked` says
        that somebody waits; the number of tokens drafted."""

    def release(self, request_id: str) -> None:
        """Forgets a request, known or not."""


class LookupModel(Protocol):
    """A draft model that looks up instead of computing: one request at a time, no sampling."""

    def extend(
        self, request_id: str, start: int, tokens: Sequence[int], num_prompt_tokens: int
    ) -> bool: ...
    def propose(self, request_id: str, speculation_length: int) -> Proposed: ...
    def release(self, request_id: str) -> None: ...


class Lookup:
    """A LookupModel as a DraftModel."""

    kind = "lookup"

    def __init__(self, model: LookupModel) -> None:
        self.extend = model.extend
        self.release = model.release
        self._propose = model.propose

    def propose(self, wants: Sequence[Want]) -> Steps[list[Proposed]]:
        yield from ()
        return [self._propose(want.request_id, want.speculation_length) for want in wants]

    def draft_ahead(self, is_asked: Callable[[], bool]) -> int:
        return 0
