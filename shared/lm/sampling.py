"""Drawing tokens from logits: a pure function of the logits, the parameters and the context.

The random number of a token is a hash of (seed, position, token), so a draw does not depend on
the batch, the draft, the replica or a restart: the Gumbel-max trick turns those numbers into a
sample. Drafters draw with the same numbers from their own logits, which agrees with the target
more often than their argmax would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from shared.generation import Sampling

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.int64]
BitArray = npt.NDArray[np.uint64]
BoolArray = npt.NDArray[np.bool_]

_MASK = (1 << 64) - 1
_UPPER = _MASK >> 33 << 33
_GOLDEN = 0x9E3779B97F4A7C15
_NUCLEUS_GUESS = 128
_ROWS_AT_ONCE = 8
"""Drawn together: what is in work stays in a core's cache."""
_CONTENDERS = 8.0
"""Noise is this large once in 3,000 draws: tokens that far below the best seldom win, and a margin
of as much says all."""


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
        return self.sampling.temperature == 0.0 and self.is_bare

    @property
    def is_bare(self) -> bool:
        """Whether nothing but the temperature and filters changes the logits."""
        return self.sampling.is_bare and self.allowed is None and not self.banned


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
    adjusted = [row for row, place in enumerate(places) if not place.is_bare]
    scores = logits.astype(np.float64) if adjusted else logits
    for row in adjusted:
        _adjust(scores[row], places[row])
    warm = [row for row, place in enumerate(places) if place.sampling.temperature > 0.0]
    whole = [row for row in warm if not places[row].sampling.is_filtered]
    if len(whole) == len(places):
        return _with_noise(scores, places)
    found = scores.astype(np.float64)
    if whole:
        found[whole] = _with_noise(scores[whole], [places[row] for row in whole])
    for row in set(warm).difference(whole):
        found[row] = _filtered(found[row], places[row])
    return found


def _filtered(scores: FloatArray, place: Place) -> FloatArray:
    """[V], tempered, with noise on what the filters leave, -inf for all others."""
    scaled = scores / place.sampling.temperature
    kept = survivors(scaled, place.sampling)
    noisy = np.full(scaled.shape, -np.inf)
    noisy[kept] = scaled[kept] + gumbel(place.sampling.seed, place.position, kept)
    return noisy


def _with_noise(scores: FloatArray, places: Sequence[Place]) -> FloatArray:
    """[N, V], tempered, with noise on the few of each row's tokens that can win with it, -inf for
    all others: dividing all and taking their logarithms is most of the work of a draw."""
    keys = np.array([_key(p.sampling.seed, p.position) for p in places], np.uint64)
    temperatures = np.array([place.sampling.temperature for place in places])
    limits = (scores.max(axis=1) - _CONTENDERS * temperatures).astype(scores.dtype)[:, None]
    noisy = np.full(scores.shape, -np.inf)

    def add(are_chosen: BoolArray) -> None:
        rows, tokens = np.divmod(np.flatnonzero(are_chosen), scores.shape[1])
        scaled = scores[rows, tokens].astype(np.float64) / temperatures[rows]
        noisy[rows, tokens] = scaled + _noise(_bits(keys[rows], tokens))

    are_near = scores >= limits
    add(are_near)
    # All others are below the limit: what noise would take one from there to the top?
    wanted = noisy.max(axis=1, keepdims=True) - limits.astype(np.float64) / temperatures[:, None]
    are_lucky = _have(keys, scores.shape[1], wanted)
    are_lucky &= ~are_near
    add(are_lucky)
    return noisy


def _have(keys: BitArray, vocab_size: int, noise: FloatArray) -> BoolArray:
    """Which tokens [N, V] have so much noise [N, 1]; true for a few that have a little less."""
    states = _half_mixed(keys[:, None] + _all_steps(vocab_size))
    # What is left of mixing keeps the upper 31 bits.
    return states >= (_bits_of(noise) << np.uint64(11)) & np.uint64(_UPPER)


@lru_cache(4)
def _all_steps(vocab_size: int) -> BitArray:
    """`_step` of a vocabulary's tokens [V]."""
    steps = _step(np.arange(vocab_size))
    steps.flags.writeable = False
    return steps


def _step(tokens: IntArray) -> BitArray:
    """By which the states of tokens differ from their key."""
    return (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)


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
    return _mixed(keys + _step(tokens))


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


def _mixed(states: BitArray) -> BitArray:
    """The upper 53 bits of `_mix` of each, in the place of what is given."""
    states = _half_mixed(states)
    states ^= states >> np.uint64(31)
    states >>= np.uint64(11)
    return states


def _half_mixed(states: BitArray) -> BitArray:
    """`_mix` of each but for its last step, in the place of what is given."""
    shifted = states >> np.uint64(30)
    states ^= shifted
    states *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(states, np.uint64(27), out=shifted)
    states ^= shifted
    states *= np.uint64(0x94D049BB133111EB)
    return states
