"""Drawing a token from logits: a pure function of the logits, the parameters and the context.

The random number of a token is a hash of (seed, position, token), so a draw does not depend on
the batch, the draft, the replica or a restart: the Gumbel-max trick turns those numbers into a
sample. Drafters draw with the same numbers from their own logits, which agrees with the target
more often than their argmax would.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shared.messages import Sampling

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.int64]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_NUCLEUS_GUESS = 128


def draw(
    logits: FloatArray, sampling: Sampling, context: Sequence[int], num_prompt_tokens: int
) -> int:
    """The token at position len(context), given its logits [V] and all tokens before it.

    Order: logit bias, penalties, then greedy, or temperature, min-p, top-k, top-p. Presence and
    frequency penalties count generated tokens, the repetition penalty prompt tokens too. Ties go
    to the lowest token id.
    """
    scores = _adjust(logits, sampling, context, num_prompt_tokens)
    if sampling.temperature == 0.0:
        return int(np.argmax(scores))
    scaled = scores.astype(np.float64) / sampling.temperature
    tokens = survivors(scaled, sampling)
    noise = gumbel(sampling.seed, len(context), tokens)
    return int(tokens[np.argmax(scaled[tokens] + noise)])


def survivors(scaled: FloatArray, sampling: Sampling) -> IntArray:
    """Token ids, ascending, that min-p, top-k and top-p leave, in this order. `scaled` [V] are
    logits over temperature. Among equal logits the lower id survives."""
    kept = np.flatnonzero(scaled > -np.inf)
    if sampling.min_p > 0.0:
        kept = kept[scaled[kept] >= scaled.max() + np.log(sampling.min_p)]
    if 0 < sampling.top_k < len(kept):
        kept = _largest(scaled, kept, sampling.top_k)
    if sampling.top_p < 1.0:
        kept = _nucleus(scaled, kept, sampling.top_p)
    return np.sort(kept)


def gumbel(seed: int, position: int, tokens: IntArray) -> FloatArray:
    """Standard Gumbel noise [len(tokens)], a function of (seed, position, token) alone."""
    key = _mix(_mix(seed & _MASK) ^ (position * _GOLDEN & _MASK))
    state = np.uint64(key) + (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
    bits = _mix_array(state)
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return -np.log(-np.log(uniform))


def _adjust(
    logits: FloatArray, sampling: Sampling, context: Sequence[int], num_prompt_tokens: int
) -> FloatArray:
    counts_output = sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
    repeats = sampling.repetition_penalty != 1.0
    if not (sampling.logit_bias or counts_output or repeats):
        return logits
    scores = logits.astype(np.float64)
    for token, bias in sampling.logit_bias.items():
        scores[token] += bias
    if repeats:
        seen = np.unique(np.asarray(context, dtype=np.int64))
        factor = sampling.repetition_penalty
        scores[seen] = np.where(scores[seen] > 0, scores[seen] / factor, scores[seen] * factor)
    if counts_output:
        output = np.asarray(context[num_prompt_tokens:], dtype=np.int64)
        seen, counts = np.unique(output, return_counts=True)
        scores[seen] -= sampling.frequency_penalty * counts + sampling.presence_penalty
    return scores


def _ranked(scaled: FloatArray, tokens: IntArray) -> IntArray:
    return tokens[np.lexsort((tokens, -scaled[tokens]))]


def _largest(scaled: FloatArray, tokens: IntArray, count: int) -> IntArray:
    """The `count` best tokens, best first."""
    values = scaled[tokens]
    threshold = np.partition(values, len(values) - count)[len(values) - count]
    return _ranked(scaled, tokens[values >= threshold])[:count]


def _nucleus(scaled: FloatArray, tokens: IntArray, top_p: float) -> IntArray:
    """The shortest run of best tokens whose probability reaches `top_p`, at least one."""
    weights = np.exp(scaled[tokens] - scaled.max())
    wanted = top_p * weights.sum()
    # The nucleus is nearly always short: rank a few first, all only when they do not reach.
    for count in (min(_NUCLEUS_GUESS, len(tokens)), len(tokens)):
        ranked = _largest(scaled, tokens, count)
        reached = np.cumsum(np.exp(scaled[ranked] - scaled.max()))
        if reached[-1] >= wanted:
            return ranked[: int(np.searchsorted(reached, wanted)) + 1]
    return ranked


def _mix(value: int) -> int:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def _mix_array(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
