"""Acceptance of a draft: follow it as long as the target itself would have drawn its tokens.

Pure. Because each position has its own random numbers (shared/lm/sampling.py), the emitted tokens
are those of plain decoding, whatever the draft; for a deterministic draft, a token is accepted
with exactly the target's probability of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared.lm.sampling import FloatArray, draw
from shared.messages import Sampling


def accept(
    logits: FloatArray,
    draft: Sequence[int],
    context: Sequence[int],
    num_prompt_tokens: int,
    sampling: Sampling,
) -> list[int]:
    """The tokens that one target pass over `draft` yields: the accepted ones and one more.

    `logits` [len(draft) + 1, V] are the target's at the positions of the draft and after it;
    `context` are all tokens before the draft. At least one token is returned: the correction
    where the draft ends being right, or the bonus token after a draft that is right throughout.
    """
    tokens = list(context)
    for position, row in enumerate(logits):
        token = draw(row, sampling, tokens, num_prompt_tokens)
        tokens.append(token)
        if position == len(draft) or token != draft[position]:
            break
    return tokens[len(context) :]
