"""What a target pass costs: seconds as a function of its tokens and of its padding, learned as
passes go by.

Pure. Measured at a few sizes when the verifier starts, straight lines between them; then every
pass corrects the two sizes next to its own a little, and all of them by what the machine as a
whole has become faster or slower. So steps between the sizes that were measured come out, too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate

MEASURED = (2, 8, 32, 128)
"""Tokens in the passes that are measured at the start. The largest is what passes over the drafts
of many have: believed to be dear, they would be avoided and never found cheap."""
SIZES = frozenset((*range(2, 33), 48, 64, 96, 128, 256))
"""Those that are told apart. Small ones all: kernels take tokens by the half-dozen or the like, and
the last ones of a dozen are next to free."""
_LOCAL_RATE, _GLOBAL_RATE = 0.1, 0.02
_TELLING_RATE = _PADDING_RATE = 0.1
_DEAR = 0.1
"""Of what a pass's tokens take: so much padding is looked at."""
_MOST = 2.0
"""A pass is never believed to have cost more than this many times what it should, nor less than
one in as many: the machine was busy with something else."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a pass, what its cost depends on. Attention sees each slot from the first to the last in
    use with as many places as the longest row has tokens (shared/lm/in_place_decoder.py)."""

    num_tokens: int = 0
    longest: int = 0
    first: int = 0
    last: int = -1

    def joined(self, slot: int, num_tokens: int) -> Shape:
        """With another row."""
        if not self.num_tokens:
            return Shape(num_tokens, num_tokens, slot, slot)
        return Shape(
            self.num_tokens + num_tokens,
            max(self.longest, num_tokens),
            min(self.first, slot),
            max(self.last, slot),
        )

    @property
    def num_slots(self) -> int:
        return self.last - self.first + 1

    @property
    def num_padding(self) -> int:
        """Places without a token."""
        return self.num_slots * self.longest - self.num_tokens


class PassCost:
    """Estimates for one target model on one machine."""

    def __init__(
        self, measured: Mapping[int, float], telling_s: float = 0.0, padding_s: float = 0.0
    ) -> None:
        """Seconds by the number of tokens, at least two sizes."""
        self.padding_s = padding_s
        """What attention takes for a place without a token."""
        self.telling_s = telling_s
        """What a prompt's token takes beside its pass if its log probabilities are told: the head
        of the model, and what is read off its logits."""
        self._sizes = sorted(measured)
        self._learned = [measured[size] for size in self._sizes]
        self._seconds = self._rising()

    def seconds(self, num_tokens: int) -> float:
        """Of a pass with so many tokens; never less for more."""
        if num_tokens > self._sizes[-1]:
            return self._seconds[-1] + (num_tokens - self._sizes[-1]) * self._last_slope()
        low, share = self._place(num_tokens)
        below, above = self._seconds[low], self._seconds[low + 1]
        return below + share * (above - below)

    def of(self, shape: Shape) -> float:
        """Seconds of a pass, its padding included."""
        return self.seconds(shape.num_tokens) + shape.num_padding * self.padding_s

    def observe(self, shape: Shape, seconds: float) -> None:
        """Learns from one pass: what padding takes if there is much of it, or if it is held for
        dear, which is avoided and would never be found cheap; else what tokens take."""
        num_tokens, num_padding = shape.num_tokens, shape.num_padding
        tokens_s = self.seconds(num_tokens)
        if num_padding > num_tokens or num_padding * self.padding_s > _DEAR * tokens_s:
            expected = self.of(shape)
            believed = min(max(seconds, expected / _MOST), expected * _MOST)
            each_s = max(0.0, believed - tokens_s) / num_padding
            self.padding_s += _PADDING_RATE * (each_s - self.padding_s)
            return
        seconds -= num_padding * self.padding_s
        if num_tokens in SIZES and num_tokens not in self._sizes:
            self._tell_apart(num_tokens)
        ratio = seconds / self.seconds(num_tokens)
        ratio = min(max(ratio, 1 / _MOST), _MOST)
        low, share = self._place(num_tokens)
        for place in range(len(self._sizes)):
            nearness = max(0.0, 1.0 - abs(place - low - share))
            self._learned[place] *= ratio ** (_GLOBAL_RATE + _LOCAL_RATE * nearness)
        self._seconds = self._rising()

    def observe_telling(self, shape: Shape, num_told: int, seconds: float) -> None:
        """Learns from a pass of which so many of the prompts' tokens were told."""
        each_s = max(0.0, seconds - self.of(shape)) / num_told
        self.telling_s += _TELLING_RATE * (each_s - self.telling_s)

    def _tell_apart(self, num_tokens: int) -> None:
        """A size of its own from now on, of which no more is known than its neighbours say."""
        seconds = self.seconds(num_tokens)
        place = bisect_right(self._sizes, num_tokens)
        self._sizes.insert(place, num_tokens)
        self._learned.insert(place, seconds)
        self._seconds = self._rising()

    def _rising(self) -> list[float]:
        """What was learned, without what cannot be: a pass that took longer than a larger one was
        disturbed."""
        return list(accumulate(reversed(self._learned), min))[::-1]

    def _place(self, num_tokens: int) -> tuple[int, float]:
        """The known size below, and how far it is to the next, 1 at most."""
        low = min(max(bisect_right(self._sizes, num_tokens) - 1, 0), len(self._sizes) - 2)
        start, end = self._sizes[low], self._sizes[low + 1]
        return low, min(max(0.0, (num_tokens - start) / (end - start)), 1.0)

    def _last_slope(self) -> float:
        """Of a token beyond the largest known size: what one costs between that and one of half as
        many. Two sizes that are next to each other differ by chance."""
        last = self._sizes[-1]
        half = max(0, bisect_right(self._sizes, last // 2) - 1)
        return (self._seconds[-1] - self._seconds[half]) / (last - self._sizes[half])


def fitting(seconds: Callable[[int], float], limit_s: float, most: int) -> int:
    """How many tokens, at most `most`, take no more than `limit_s`, if more never take less."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if seconds(middle) <= limit_s:
            low = middle
        else:
            high = middle - 1
    return low
