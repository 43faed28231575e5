"""What the target's logits say of tokens: log probabilities. Pure.

They are those of the model as it is, before temperature, penalties or grammars; since a row's
logits are the same bits in every batch, with and without drafts, so are these.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shared.generation import Logprobs
from shared.lm.sampling import FloatArray


def logprobs(logits: FloatArray, tokens: Sequence[int], num_top: int) -> list[Logprobs]:
    """Of `tokens`, given their logits [N, V], N at least their number; and of the `num_top`
    likeliest at each place, the lower id first among equals."""
    return [
        _logprobs(row, token, num_top)
        for row, token in zip(logits[: len(tokens)], tokens, strict=True)
    ]


def _logprobs(row: FloatArray, token: int, num_top: int) -> Logprobs:
    scores = row.astype(np.float64)
    highest = scores.max()
    scores -= highest + np.log(np.exp(scores - highest).sum())
    top: list[int] = []
    if num_top:
        threshold = np.partition(scores, len(scores) - num_top)[len(scores) - num_top]
        near = np.flatnonzero(scores >= threshold)
        top = near[np.lexsort((near, -scores[near]))][:num_top].tolist()
    own = scores[token]
    rank = 1 + int((scores > own).sum()) + int((scores[:token] == own).sum())
    return Logprobs(float(own), top, scores[top].tolist(), rank)
