"""Acceptance of a draft: follow it as long as the target itself would have drawn its tokens.

Pure. Because each position has its own random numbers (shared/lm/sampling.py), the emitted tokens
are those of plain decoding, whatever the draft; for a deterministic draft, a token is accepted
with exactly the target's probability of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from shared.generation import Sampling
from shared.lm.sampling import BoolArray, FloatArray, Place, draw
from shared.tokens import common_length


@dataclass(frozen=True, slots=True)
class Rules:
    """Of what may be drawn: `stop_tokens` only after `min_tokens` others, and at each place of the
    draft and behind it the `allowed` tokens alone, where there is a grammar."""

    stop_tokens: Sequence[int] = ()
    min_tokens: int = 0
    allowed: Sequence[BoolArray] = ()

    def at(self, number: int, num_output: int) -> tuple[BoolArray | None, Sequence[int]]:
        """Of the draft's place `number`, behind `num_output` tokens: what alone may be drawn, and
        what may not. A grammar that has come to its end comes before a minimum of tokens."""
        banned = self.stop_tokens if num_output < self.min_tokens else ()
        if not self.allowed:
            return None, banned
        allowed = self.allowed[number]
        if banned and allowed.sum() == allowed[list(banned)].sum():
            banned = ()
        return allowed, banned


FREE = Rules()


@dataclass(frozen=True, slots=True)
class Drafted:
    """One request's draft, all tokens before it, and how the target draws."""

    draft: Sequence[int]
    context: Sequence[int]
    num_prompt_tokens: int
    sampling: Sampling
    rules: Rules = field(default=FREE)


def accept(logits: Sequence[FloatArray], drafted: Sequence[Drafted]) -> list[list[int]]:
    """The tokens that one target pass yields for each draft: the accepted ones and one more.

    `logits` [len(draft) + 1, V] of each are the target's at the positions of the draft and after
    it. At least one token each is returned: the correction where the draft ends being right, or
    the bonus token after a draft that is right throughout.
    """
    places = [place for d in drafted for place in _places(d)]
    drawn = draw(np.concatenate(logits), places).tolist() if places else []
    emitted = []
    start = 0
    for d in drafted:
        own = drawn[start : start + len(d.draft) + 1]
        start += len(own)
        emitted.append(own[: common_length(d.draft, own) + 1])
    return emitted


def _places(drafted: Drafted) -> list[Place]:
    """Of each token of the draft, and of the one behind it."""
    tokens = [*drafted.context, *drafted.draft]
    start, num_prompt = len(drafted.context), drafted.num_prompt_tokens
    return [
        Place(
            drafted.sampling,
            tokens,
            start + number,
            num_prompt,
            *drafted.rules.at(number, start + number - num_prompt),
        )
        for number in range(len(drafted.draft) + 1)
    ]
