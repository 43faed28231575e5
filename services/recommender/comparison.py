"""How much the scores of two dense graphs differ, and the order of items by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.recommender.dense import open_session
from shared.errors import ModelError

FloatArray = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Samples = Mapping[str, FloatArray]
"""What a dense graph reads, by input [rows, ...]."""
MAX_RANKED = 4096
"""Items of a request whose order is compared."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What int8 changes."""

    num_scores: int
    spread: float
    """Standard deviation of the scores in fp32."""
    largest: float
    mean: float
    """Absolute differences of scores."""
    spearman: float
    kendall: float
    """Correlation of the ranks of a request's items (tau-b), means over requests."""


def compare(dense: Path, quantized: Path, requests: Sequence[Samples]) -> Effect:
    """Compares two graphs on the items of some requests. Raises ModelError if a difference is not
    finite."""
    before, after = _scores(dense, requests), _scores(quantized, requests)
    with np.errstate(invalid="ignore"):
        differences = np.abs(
            np.concatenate([(b - a).ravel() for b, a in zip(before, after, strict=True)])
        )
    if not np.isfinite(differences).all():
        raise ModelError(f"{dense}: scores in int8 and in fp32 differ by what is no finite number")
    agreements = [
        _agreement(b[:MAX_RANKED, column], a[:MAX_RANKED, column])
        for b, a in zip(before, after, strict=True)
        for column in range(b.shape[1])
    ]
    return Effect(
        len(differences),
        float(np.concatenate(before).std()),
        float(differences.max()),
        float(differences.mean()),
        *np.mean(agreements, axis=0).tolist(),
    )


def _scores(dense: Path, requests: Sequence[Samples]) -> list[Doubles]:
    """Of each request [rows, outputs]."""
    session = open_session(dense)
    found = [session.run(None, request) for request in requests]
    return [
        np.concatenate([o.reshape(len(o), -1) for o in outputs], axis=1).astype(np.float64)
        for outputs in found
    ]


def _agreement(before: Doubles, after: Doubles) -> tuple[float, float]:
    """Spearman's rho and Kendall's tau-b of one list; 1 where both leave it in one heap."""
    ranks = [_ranks(before), _ranks(after)]
    first, second = (r - r.mean() for r in ranks)
    rho = _cosine(first @ second, first @ first, second @ second)
    sums = np.zeros(3)
    for a, b in zip(before, after, strict=True):
        signs = np.sign(before - a), np.sign(after - b)
        sums += signs[0] @ signs[1], signs[0] @ signs[0], signs[1] @ signs[1]
    return rho, _cosine(*sums)


def _ranks(values: Doubles) -> Doubles:
    """Equal values share the mean of their ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Doubles = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks


def _cosine(product: float, first: float, second: float) -> float:
    if first == 0 or second == 0:
        return float(first == second)
    return float(product / np.sqrt(first * second))
