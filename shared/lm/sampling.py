"""Drawing tokens from logits: a pure function of the logits, the parameters and the context.

The random number of a token is a hash of (seed, position, token), so a draw does not depend on
the batch, the draft, the replica or a restart: the Gumbel-max trick turns those numbers into a
sample. Drafters draw with the same numbers from their own logits, which agrees with the target
more often than their argmax would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.generation import Sampling

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.int64]
BitArray = npt.NDArray[np.uint64]
BoolArray = npt.NDArray[np.bool_]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_NUCLEUS_GUESS = 128
_ROWS_AT_ONCE = 8
"""Drawn together: what is in work stays in a core's cache."""
_CONTENDERS = 8.0
"""Noise is this large once in 3,000 draws: tokens that far below the best seldom win."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a draw depends on beside the logits: the request's parameters, and the tokens before,
    which are the first `position` of `tokens`. Where there is a set of `allowed` tokens [V], no
    other is drawn, and none that is banned."""

    sampling: Sampling
    tokens: Sequence[int]
    position: int
    num_prompt_tokens: int
    allowed: BoolArray | None = None
    banned: Sequence[int] = ()

    @property
    def is_argmax(self) -> bool:
        """Whether the draw is the token of the largest logit, as it is."""
        return self.sampling.is_argmax and self.allowed is None and not self.banned


def draw(logits: FloatArray, places: Sequence[Place]) -> IntArray:
    """Tokens [N], one for each place, given logits [N, V].

    Order: what may not be drawn, logit bias, penalties, then greedy, or temperature, min-p, top-k,
    top-p. Presence and frequency penalties count generated tokens, the repetition penalty prompt
    tokens too. Ties go to the lowest token id. Each row is drawn as if it were alone.
    """
    tokens: IntArray = logits.argmax(axis=1)
    others = _not_argmax(places)
    for rows in (others[n : n + _ROWS_AT_ONCE] for n in range(0, len(others), _ROWS_AT_ONCE)):
        scores = perturbed(logits[rows], [places[row] for row in rows])
        tokens[rows] = scores.argmax(axis=1)
    return tokens


def draw_with_margins(logits: FloatArray, places: Sequence[Place]) -> tuple[IntArray, FloatArray]:
    """Tokens [N] as `draw` gives them, and by how much each won over the next best, in units of
    logits over temperature."""
    tokens, margins = np.empty(len(places), np.int64), np.empty(len(places))
    for start in range(0, len(places), _ROWS_AT_ONCE):
        group = slice(start, start + _ROWS_AT_ONCE)
        is_plain = not _not_argmax(places[group])
        scores = logits[group].copy() if is_plain else perturbed(logits[group], places[group])
        best = scores.argmax(axis=1)
        rows = np.arange(len(scores))
        highest = scores[rows, best].astype(np.float64)
        scores[rows, best] = -np.inf
        tokens[group], margins[group] = best, highest - scores.max(axis=1)
    return tokens, margins


def _not_argmax(places: Sequence[Place]) -> list[int]:
    """Rows that need more than their logits: copies of all in 64 bits are most of a greedy draw."""
    return [row for row, place in enumerate(places) if not place.is_argmax]


def perturbed(logits: FloatArray, places: Sequence[Place]) -> FloatArray:
    """Scores [N, V] whose largest of each row is the draw; a copy. Of a row with a temperature,
    scores that cannot be the largest may be -inf."""
    scores = logits.astype(np.float64)
    for row, place in enumerate(places):
        _adjust(scores[row], place)
    warm = [row for row, place in enumerate(places) if place.sampling.temperature > 0.0]
    if warm:
        scores[warm] = _sampled(scores[warm], [places[row] for row in warm])
    return scores


def _sampled(scores: FloatArray, places: Sequence[Place]) -> FloatArray:
    """Tempered, filtered, and with noise where it can decide."""
    scaled = scores / np.array([[place.sampling.temperature] for place in places])
    keys = np.array([_key(p.sampling.seed, p.position) for p in places], np.uint64)
    filtered = [row for row, place in enumerate(places) if place.sampling.is_filtered]
    whole = np.delete(np.arange(len(places)), filtered)
    noisy = np.full(scaled.shape, -np.inf)
    for row in filtered:
        kept = survivors(scaled[row], places[row].sampling)
        noisy[row, kept] = scaled[row, kept] + _noise(_bits(keys[row], kept))
    if len(whole):
        noisy[whole] = _with_noise(scaled[whole], keys[whole])
    return noisy


def _with_noise(scaled: FloatArray, keys: BitArray) -> FloatArray:
    """Noise on the few of each row's tokens that can win with it, -inf for all others: taking the
    logarithms of all is most of the work of a draw."""
    best = scaled.max(axis=1, keepdims=True)
    near = scaled > best - _CONTENDERS
    noisy = np.full(scaled.shape, -np.inf)
    bits = _bits(keys[:, None], np.arange(scaled.shape[1])[None])
    noisy[near] = scaled[near] + _noise(bits[near])
    # The others are at most best - _CONTENDERS: what noise would take one of them to the top?
    wanted = noisy.max(axis=1, keepdims=True) - (best - _CONTENDERS)
    lucky = bits >= _bits_of(wanted)
    lucky &= ~near & (scaled > -np.inf)
    noisy[lucky] = scaled[lucky] + _noise(bits[lucky])
    return noisy


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
    return _noise(_bits(np.uint64(_key(seed, position)), tokens))


def mixed_seed(seed: int) -> int:
    """What the random numbers of all of a request's positions begin with, 64 bits."""
    return _mix(seed & _MASK)


def _key(seed: int, position: int) -> int:
    return _mix(mixed_seed(seed) ^ (position * _GOLDEN & _MASK))


def _bits(keys: BitArray | np.uint64, tokens: IntArray) -> BitArray:
    """Random bits, 53 of them."""
    return _mixed(keys + (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN))


def _noise(bits: BitArray) -> FloatArray:
    noise: FloatArray = -np.log(-np.log((bits.astype(np.float64) + 0.5) * 2.0**-53))
    return noise


def _bits_of(noise: FloatArray) -> BitArray:
    """Bits below which the noise is surely less than this."""
    uniform = np.exp(-np.exp(-noise)) * (1.0 - 1e-9)
    return np.asarray(np.floor(uniform * 2.0**53), np.uint64)


def _adjust(scores: FloatArray, place: Place) -> None:
    """What may not be drawn, bias and penalties, on the scores [V] themselves."""
    sampling = place.sampling
    if place.allowed is not None:
        scores[~place.allowed] = -np.inf
    scores[list(place.banned)] = -np.inf
    for token, bias in sampling.logit_bias.items():
        scores[token] += bias
    if sampling.repetition_penalty != 1.0:
        seen = np.unique(np.asarray(place.tokens[: place.position], dtype=np.int64))
        factor = sampling.repetition_penalty
        scores[seen] = np.where(scores[seen] > 0, scores[seen] / factor, scores[seen] * factor)
    if sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0:
        output = np.asarray(place.tokens[place.num_prompt_tokens : place.position], dtype=np.int64)
        seen, counts = np.unique(output, return_counts=True)
        scores[seen] -= sampling.frequency_penalty * counts + sampling.presence_penalty


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


def _mixed(state: BitArray) -> BitArray:
    """The upper 53 bits of `_mix` of each, in the place of what is given."""
    shifted = state >> np.uint64(30)
    state ^= shifted
    state *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(state, np.uint64(27), out=shifted)
    state ^= shifted
    state *= np.uint64(0x94D049BB133111EB)
    np.right_shift(state, np.uint64(31), out=shifted)
    state ^= shifted
    state >>= np.uint64(11)
    return state
