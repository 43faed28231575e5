"""The paper's models, small enough for a test, through the loader that serves."""

from pathlib import Path

import numpy as np
import pytest

from services.recommender.folder import load_model
from services.recommender.generate import generate, main, read_shapes
from services.recommender.layout import Layout
from services.recommender.manifest import load_manifest
from shared.errors import InvalidRequestError, ModelError


def make(size: str, out: Path, seed: int = 0) -> Layout:
    return generate(size, out, 1e-4, seed, lambda share, what: None)


def test_the_shapes_are_the_papers() -> None:
    shapes = read_shapes()
    for shape, num_bytes in ((shapes.small, 1_414_678_400), (shapes.large, 15_107_411_200)):
        tables = shape.embedding_tables
        assert shape.tables == sum(count for _, _, count in tables)
        assert shape.features == sum(dim * count for dim, _, count in tables)
        assert num_bytes == sum(4 * dim * rows * count for dim, rows, count in tables)
    assert shapes.hidden_layers == [1024, 512, 256]
    assert (shapes.small.features, shapes.large.features) == (352, 876)


@pytest.mark.parametrize(("size", "tables", "features"), [("small", 47, 352), ("large", 98, 876)])
def test_a_generated_model_scores_raw_rows(
    tmp_path: Path, size: str, tables: int, features: int
) -> None:
    make(size, tmp_path / "m")
    model = load_model(tmp_path / "m", max_rows=16, num_threads=1)
    assert (len(model.layout.tables), model.layout.num_features) == (tables, features)
    context = {field.key: ["0"] for field in model.layout.context_fields}
    candidates = [str(i) for i in range(0, model.items.num_items, model.items.num_items // 40)]
    (scores,) = model.score([model.read(context, candidates)])
    assert len(set(scores.tolist())) == len(candidates)
    item = np.load(tmp_path / "m" / model.layout.tables[-1].file)
    assert 0.9 < float(item.std() * np.sqrt(item.shape[1])) < 1.1


def test_rows_outside_of_a_table_and_the_whole_catalogue_are_refused(tmp_path: Path) -> None:
    make("small", tmp_path / "m")
    model = load_model(tmp_path / "m", max_rows=16, num_threads=1)
    key, num_items = model.layout.context_fields[0].key, model.items.num_items
    with pytest.raises(InvalidRequestError, match="no row for"):
        model.read({key: ["1000000"]}, ["0"])
    with pytest.raises(InvalidRequestError, match=f"'{num_items}'"):
        model.read({}, [str(num_items)])
    with pytest.raises(InvalidRequestError, match="say which candidates"):
        model.read({}, None)


def test_a_seed_makes_the_same_files_again(tmp_path: Path) -> None:
    again = [make("small", tmp_path / name, seed=5).files for name in "ab"]
    assert again[0] == again[1]
    assert make("small", tmp_path / "c", seed=6).files != again[0]


def test_a_folder_in_use_a_wrong_scale_and_a_wrong_size_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(ModelError, match="not empty"):
        make("small", tmp_path)
    with pytest.raises(ModelError, match="scale is 2"):
        generate("small", tmp_path / "m", 2, 0, lambda share, what: None)
    with pytest.raises(ModelError, match="small and large"):
        make("huge", tmp_path / "m")


def test_the_command_shows_its_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["small", str(tmp_path / "m"), "--scale", "0.0001"]) == 0
    shown = capsys.readouterr()
    assert "47 tables, 352 features" in shown.out
    assert "table46.npy" in shown.err
    assert len(load_manifest(tmp_path / "m").files) == 48
    assert main(["small", str(tmp_path / "m")]) == 1
    assert "not empty" in capsys.readouterr().err
