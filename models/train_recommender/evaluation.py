"""How well rankings place the module that a held-out file imported next.

Each ranking is over the whole catalogue but what the file has imported already. Both figures are
means over all imports of the files: recall@10, and AUC, the share of the other modules that rank
below the right one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.train_recommender.dataset import Example, Names
from models.train_recommender.harvest import SourceFile
from services.recommender.features import ContextRows, derive
from services.recommender.model import Model

FloatArray = npt.NDArray[np.floating]
Scorer = Callable[[Sequence[Example]], FloatArray]
"""Scores [examples, modules]."""
CHUNK = 64


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one ranking on one set of examples."""

    recall_at_10: float
    auc: float


def evaluate(
    scorer: Scorer, examples: Sequence[Example], report: Callable[[int], None] = lambda _: None
) -> Figures:
    """Equal scores share their places: figures are those of a random order among them."""
    hits, aucs = [], []
    for start in range(0, len(examples), CHUNK):
        chunk = examples[start : start + CHUNK]
        for example, scores in zip(chunk, scorer(chunk), strict=True):
            others = np.delete(scores, [*example.imported, example.target])
            right = scores[example.target]
            num_above, num_equal = (others > right).sum(), (others == right).sum()
            hits.append(min(1.0, max(0.0, (10 - num_above) / (num_equal + 1))))
            aucs.append(1 - (num_above + 0.5 * num_equal) / len(others))
        report(min(len(examples), start + CHUNK))
    return Figures(float(np.mean(hits)), float(np.mean(aucs)))


def served(model: Model) -> Scorer:
    """The finished model, by the code that serves it."""
    everything = np.arange(model.num_items)

    def score(examples: Sequence[Example]) -> FloatArray:
        rankings = [
            model.names.ranking(ContextRows(example.rows, 0), everything) for example in examples
        ]
        return np.stack(model.rank([ranking.query for ranking in rankings]))

    return score


def popularity(names: Names) -> Scorer:
    """Every context gets the modules by the number of training files that import them."""
    counts = np.array(names.counts, np.float64)
    return lambda examples: np.tile(counts, (len(examples), 1))


def popularity_in_package(names: Names, files: Iterable[SourceFile]) -> Scorer:
    """By the number of files in the nearest known package, then by that of all files."""
    places = {module: place for place, module in enumerate(names.modules)}
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for file in files:
        inside = [places[module] for module in file.imports if module in places]
        for package in derive([file.package], "parents"):
            counts[package].update(inside)
    overall = np.array(names.counts, np.float64)

    def score(examples: Sequence[Example]) -> FloatArray:
        scores = np.tile(overall / (overall.max() + 1), (len(examples), 1))
        for row, example in zip(scores, examples, strict=True):
            known = [p for p in derive([example.package], "parents") if p in counts]
            for place, count in counts[known[0]].items() if known else ():
                row[place] += count
        return scores

    return score
