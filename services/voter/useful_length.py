"""How many tokens to ask drafters for: up to the place from which on a token brings less than its
drafting costs.

Pure. The verifier takes of each draft what pays in the pass at hand; what is drafted beyond that is
wasted, what is missing is lost. At each place of a draft a token brings, on average, by how much
the chance that the target follows so far exceeds its price in the pass, as often as it does. That
is learned by how easy the request is, for drafts are long where the target repeats itself. Drafting
a token costs its seconds, in which the request would have got tokens at its usual rate. Requests
that share passes are drafted in step: each further step of the drafters costs something for itself,
for which all wait, and something for each request that takes part. So there is a longest proposal:
up to the place where those who would take part win no more than the step itself costs.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from services.voter.estimator import EASE_EDGES

_FIRST_GAIN, _LATER = 0.3, 0.8
"""What the first token of a draft is believed to bring, and a later one of what the one before it
does, as long as nothing is known."""
_RATE = 0.02
_DRIFT = 0.05
"""What is known of places that are not asked for is moved, a round, this far towards what those
before them suggest: what was not worth asking for once may be later."""
_MEMORY = 0.98
"""Of what drafting and rounds took, a round."""
_STEP, _PART = 0.5, 0.7
"""Of what a drafted token costs on average: what a step costs for itself, and for each request that
takes part. More than one together, since in most rounds not all take part until the end."""
_SHARE_RATE = 0.02
"""Of how many of the requests are how easy, a round of one."""


@dataclass(slots=True)
class Place:
    """What a token at one place of a draft brings, in emitted tokens."""

    gain: float
    num_seen: int = 1

    def learn(self, gain: float) -> None:
        self.num_seen += 1
        self.gain += max(_RATE, 1 / self.num_seen) * (gain - self.gain)


class DraftPrice:
    """What drafting a token costs, in emitted tokens: its seconds times those that a request gets
    a second. All requests of a pass wait for it together, and gain together by what it brings."""

    def __init__(self) -> None:
        self._draft_s = self._num_asked = 0.0
        self._num_emitted = self._round_s = 0.0

    def observe(self, asked: int, draft_s: float, num_emitted: int, round_s: float) -> None:
        """Learns from a round: the tokens asked for, the seconds of the slowest drafter, the tokens
        emitted, and the seconds of the whole round."""
        self._draft_s = _MEMORY * self._draft_s + draft_s
        self._num_asked = _MEMORY * self._num_asked + asked
        self._num_emitted = _MEMORY * self._num_emitted + num_emitted
        self._round_s = _MEMORY * self._round_s + round_s

    @property
    def price(self) -> float | None:
        """None as long as nothing is known."""
        if not self._num_asked or not self._round_s:
            return None
        return self._draft_s / self._num_asked * self._num_emitted / self._round_s


class UsefulLength:
    """Chooses for the requests of one target model at one level of load."""

    def __init__(self, max_length: int, is_alone: bool) -> None:
        """`is_alone`: there is one request at a time."""
        self.draft_price = DraftPrice()
        self._is_alone = is_alone
        self._max_length = max_length
        num_groups = len(EASE_EDGES) + 1
        self._places = [
            [Place(_FIRST_GAIN * _LATER**n) for n in range(max_length)] for _ in range(num_groups)
        ]
        self._shares = [1 / num_groups] * num_groups
        """Of the rounds: those of requests that are so easy."""

    def next(self, asked: int, survival: Sequence[float], price: float, ease: float) -> int:
        """The length to ask for in the next round of a request. In this one `asked` tokens were;
        `survival` are the chances of those that were drafted, `price` that from which on a token
        pays in the pass. `ease` is the share of its drafts that the request had accepted lately."""
        group = bisect(EASE_EDGES, ease)
        places = self._places[group]
        self._learn(places, asked, survival, price)
        for n, share in enumerate(self._shares):
            self._shares[n] += _SHARE_RATE * ((n == group) - share)
        cost = self.draft_price.price
        if cost is None:
            return max(1, min(asked, self._max_length))
        most, own = self._max_length, cost
        if not self._is_alone:
            most, own = self._longest(cost), _PART * cost
        length = 1
        while length < most and places[length].gain >= own:
            length += 1
        return length

    def _learn(
        self, places: Sequence[Place], asked: int, survival: Sequence[float], price: float
    ) -> None:
        for n, place in enumerate(places):
            if n < asked:
                place.learn(max(0.0, survival[n] - price) if n < len(survival) else 0.0)
            elif n > 0:
                earlier = places[n - 2].gain if n > 1 else places[0].gain / _LATER
                place.gain += _DRIFT * (_expected(earlier, places[n - 1].gain) - place.gain)

    def _longest(self, cost: float) -> int:
        """Tokens of the longest proposals that pay, by what all requests win."""
        length = 1
        while length < self._max_length:
            won = sum(
                share * max(0.0, places[length].gain - _PART * cost)
                for share, places in zip(self._shares, self._places, strict=True)
            )
            if won < _STEP * cost:
                break
            length += 1
        return length


def _expected(earlier: float, last: float) -> float:
    """What the next place should bring by the two before it: again the share of the last step."""
    return last * min(1.0, last / earlier) if earlier > 0 else 0.0
