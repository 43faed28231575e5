"""How many tokens to ask drafters for: as many as were worth verifying, and a little more.

Pure. The verifier takes of each draft what pays in the pass at hand; what is drafted beyond that is
wasted, what is missing is lost. So a request whose whole draft was worth its price is asked twice
as many next time, and one whose draft was not is asked a little more than what was.
"""

from __future__ import annotations

from collections.abc import Sequence

_SLACK = 2


def next_length(asked: int, survival: Sequence[float], price: float, max_length: int) -> int:
    """The length to ask for in the next round of a request. `survival` are the chances of the
    tokens of this round's draft, `price` that from which on a token pays."""
    num_useful = sum(chance >= price for chance in survival)
    wanted = 2 * asked if num_useful >= asked else num_useful + _SLACK
    return max(1, min(wanted, max_length))
