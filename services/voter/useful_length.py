"""How many tokens to ask drafters for: those that would have paid in this round, and one more.

Pure. The verifier takes of each draft what pays in the pass at hand; what is drafted beyond that is
wasted, what is missing is lost. A token pays if the chance that the target follows so far is worth
its part of the pass and its part of the drafting that the pass has to wait for.
"""

from __future__ import annotations

from collections.abc import Sequence

_SLACK = 1
_MEMORY = 0.98
"""Of how much was seen, a round: loads change."""


def next_length(survival: Sequence[float], price: float, max_length: int) -> int:
    """The length to ask for in the next round of a request. `survival` are the chances of the
    tokens of this round's draft, `price` that from which on a token pays."""
    num_useful = sum(chance >= price for chance in survival)
    return max(1, min(num_useful + _SLACK, max_length))


class DraftPrice:
    """What drafting a token costs, in emitted tokens: its seconds times those that a request gets
    a second. All requests of a pass wait for it together, and gain together by what it brings."""

    def __init__(self) -> None:
        self._draft_s = self._num_asked = 0.0
        self._num_emitted = self._round_s = 0.0

    def observe(self, num_asked: int, draft_s: float, num_emitted: int, round_s: float) -> None:
        """Learns from a round: the tokens asked for, the seconds of the slowest drafter, the tokens
        emitted, and the seconds of the whole round."""
        self._draft_s = _MEMORY * self._draft_s + draft_s
        self._num_asked = _MEMORY * self._num_asked + num_asked
        self._num_emitted = _MEMORY * self._num_emitted + num_emitted
        self._round_s = _MEMORY * self._round_s + round_s

    @property
    def price(self) -> float:
        """0 as long as nothing is known."""
        if not self._num_asked or not self._round_s:
            return 0.0
        return self._draft_s / self._num_asked * self._num_emitted / self._round_s
