"""Acceptance of a draft: follow it as long as the target itself would have drawn its tokens.

Pure. Because each position has its own random numbers (shared/lm/sampling.py), the emitted tokens
are those of plain decoding, whatever the draft; for a deterministic draft, a token is accepted
with exactly the target's probability of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.lm.sampling import FloatArray, Place, draw
from shared.messages import Sampling
from shared.tokens import common_length


@dataclass(frozen=True, slots=True)
class Drafted:
    """One request's draft, all tokens before it, and how the target draws."""

    draft: Sequence[int]
    context: Sequence[int]
    num_prompt_tokens: int
    sampling: Sampling


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
    return [
        Place(drafted.sampling, tokens, position, drafted.num_prompt_tokens)
        for position in range(len(drafted.context), len(tokens) + 1)
    ]
