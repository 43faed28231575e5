"""What int8 costs in ranks: the measures, and the figures of the shipped model."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from models.train_recommender import effect, harvest
from services.recommender.comparison import compare
from services.recommender.graph import Layer, write_graph
from services.recommender.quantize import quantize_model
from shared.errors import ModelError
from tests.recommender.toy import write_toy

SHIPPED = Path(__file__).parent.parent.parent / "models" / "import-next"
SCORES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=30)


def one_layer(file: Path, weights: list[list[float]]) -> Path:
    array = np.array(weights, np.float32)
    layer = Layer(array, np.zeros(array.shape[1], np.float32))
    write_graph(file, len(array), [layer], None)
    return file


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of two numbers the first, and the second."""
    folder = tmp_path_factory.mktemp("graphs")
    return (
        one_layer(folder / "first.onnx", [[1.0], [0.0]]),
        one_layer(folder / "second.onnx", [[0.0], [1.0]]),
    )


@given(SCORES)
def test_differences_and_ranks_are_scipys(
    graphs: tuple[Path, Path], scores: list[tuple[int, int]]
) -> None:
    features = np.array(scores, np.float32)
    first, second = features.T
    assume(len(set(first)) > 1 and len(set(second)) > 1)
    found = compare(*graphs, [{"features": features}])
    assert found.num_scores == len(scores)
    assert found.largest == np.abs(first - second).max()
    assert found.mean == pytest.approx(np.abs(first - second).mean())
    assert found.spread == pytest.approx(first.std())
    assert found.spearman == pytest.approx(spearmanr(first, second).statistic)
    assert found.kendall == pytest.approx(kendalltau(first, second).statistic)


def test_ranks_are_compared_within_a_request(graphs: tuple[Path, Path]) -> None:
    rows = np.array([[0, 0], [1, 2], [2, 1]], np.float32)
    shifted = rows + np.array([100, -100], np.float32)
    found = compare(*graphs, [{"features": rows}, {"features": shifted}])
    assert found.spearman == pytest.approx(0.5)
    assert found.kendall == pytest.approx(1 / 3)


def test_scores_in_one_heap_agree_if_both_are(graphs: tuple[Path, Path]) -> None:
    rows = np.array([[1, 1], [1, 2]], np.float32)
    assert compare(*graphs, [{"features": rows}]).spearman == 0
    assert compare(*graphs, [{"features": rows[:1]}]).kendall == 1


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_difference_that_is_not_finite_is_refused(
    graphs: tuple[Path, Path], value: float
) -> None:
    rows = np.array([[1, 1], [1, value]], np.float32)
    with pytest.raises(ModelError, match="differ by what is no finite number"):
        compare(*graphs, [{"features": rows}])


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A piece of the standard library."""
    root = tmp_path_factory.mktemp("library")
    for package in ("asyncio", "email", "unittest", "json", "logging", "multiprocessing"):
        shutil.copytree(
            Path(sysconfig.get_paths()["stdlib"], package),
            root / package,
            ignore=shutil.ignore_patterns("test*", "__pycache__"),
        )
    return root


def test_the_shipped_model_ranks_in_int8_as_in_fp32(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    found = quantize_model(SHIPPED, tmp_path / "int8", 8)
    assert found.mean < 0.05 * found.spread
    assert found.spearman > 0.999
    number, fp32, int8 = effect.compare(SHIPPED, tmp_path / "int8", harvest.harvest([library]))
    assert number >= 20
    assert fp32.auc > 0.95
    assert abs(fp32.auc - int8.auc) < 0.001
    monkeypatch.setattr(harvest, "installed_roots", lambda: [library, tmp_path])
    assert effect.main([str(SHIPPED), str(tmp_path / "int8")]) == 0
    shown = capsys.readouterr().out
    assert f"{number} imports of held-out files" in shown
    assert f"recall@10 {int8.recall_at_10:.4f}, AUC {int8.auc:.5f}" in shown


def test_models_that_cannot_be_compared_are_refused(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_toy(tmp_path / "toy")
    with pytest.raises(ModelError, match=r"place, seen, .*; needed are those of import-next: p"):
        effect.compare(SHIPPED, tmp_path / "toy", [])
    with pytest.raises(ModelError, match="no held-out file imports a module that"):
        effect.compare(SHIPPED, SHIPPED, [])
    monkeypatch.setattr(harvest, "installed_roots", lambda: [tmp_path / "toy", library])
    assert effect.main([str(SHIPPED), str(tmp_path / "toy")]) == 1
    assert "effect: " in capsys.readouterr().err
