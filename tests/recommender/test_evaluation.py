"""The figures of the model card, on rankings small enough to count by hand."""

import numpy as np
import pytest

from models.train_recommender.dataset import Example, Names, gather_names
from models.train_recommender.evaluation import (
    Figures,
    evaluate,
    popularity,
    popularity_in_package,
)
from models.train_recommender.harvest import SourceFile

NAMES = Names(
    modules=[f"m{i}" for i in range(20)], packages=[], roots=[], counts=[20 - i for i in range(20)]
)


def example(target: int, imported: list[int], package: str = "") -> Example:
    return Example([[], [], [], []], imported, target, package)


def test_popularity_ranks_by_files_and_leaves_out_what_is_imported() -> None:
    figures = evaluate(popularity(NAMES), [example(0, []), example(11, [0, 1]), example(12, [0])])
    # Places 0, 9 and 11 among 19, 17 and 18 others.
    assert figures.recall_at_10 == pytest.approx(2 / 3)
    assert figures.auc == pytest.approx(np.mean([1, 1 - 9 / 17, 1 - 11 / 18]))


def test_a_ranking_that_knows_nothing_has_an_auc_of_one_half() -> None:
    figures = evaluate(lambda chunk: np.zeros((len(chunk), 20)), [example(3, [1]), example(7, [])])
    assert figures == Figures(recall_at_10=(10 / 19 + 10 / 20) / 2, auc=0.5)


def test_popularity_in_a_package_prefers_the_nearest_known_package() -> None:
    files = [
        *(SourceFile(f"p/{i}.py", "p", ("rare", "common")) for i in range(3)),
        *(SourceFile(f"q/{i}.py", "q.r", ("common", "other")) for i in range(4)),
    ]
    names = gather_names(files)
    assert names.modules == ["common", "other", "rare"]
    scorer = popularity_in_package(names, files)
    order = [
        np.argsort(-row, kind="stable").tolist()
        for row in scorer([example(0, [], package) for package in ("p.new", "q.r", "nowhere", "")])
    ]
    assert order == [[0, 2, 1], [0, 1, 2], [0, 1, 2], [0, 1, 2]]
