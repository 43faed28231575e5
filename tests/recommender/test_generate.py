"""The paper's models, small enough for a test, through the loader that serves."""

from pathlib import Path

import numpy as np
import pytest

from services.recommender.folder import load_model
from services.recommender.generate import generate, main, read_shapes
from services.recommender.layout import Table
from services.recommender.model import Model
from services.recommender.planner.profiles import U280
from services.recommender.planning import Limits
from services.recommender.restructure import read_source, restructure
from shared.errors import InvalidRequestError, ModelError


def make(size: str, out: Path, seed: int = 0) -> list[Table]:
    return generate(size, out, 1e-4, seed, lambda share, what: None)


def served(source: Path, out: Path) -> Model:
    """Restructured as for the paper's board."""
    restructure(read_source(source), out, U280, Limits(), lambda share, what: None)
    return load_model(out, slice_rows=16, num_threads=1)


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
    made = make(size, tmp_path / "m")
    model = served(tmp_path / "m", tmp_path / "out")
    assert len(model.layout.stored) < tables
    assert (len(model.layout.tables), model.layout.num_features) == (tables, features)
    context = {key: ["0"] for key in model.layout.context_keys}
    candidates = [str(i) for i in range(0, model.num_items, model.num_items // 40)]
    (scores,) = model.rank([model.read(context, candidates).query])
    assert len(set(scores.tolist())) == len(candidates)
    item = np.load(tmp_path / "m" / f"{made[-1].name}.npy")
    assert 0.9 < float(item.std() * np.sqrt(item.shape[1])) < 1.1


def test_rows_outside_of_a_table_and_the_whole_catalogue_are_refused(tmp_path: Path) -> None:
    make("small", tmp_path / "m")
    model = served(tmp_path / "m", tmp_path / "out")
    context, num_items = {key: ["0"] for key in model.layout.context_keys}, model.num_items
    key = model.layout.context_keys[0]
    with pytest.raises(InvalidRequestError, match="no row for"):
        model.read({**context, key: ["1000000"]}, ["0"])
    with pytest.raises(InvalidRequestError, match="0 values; it takes 1"):
        model.read({k: v for k, v in context.items() if k != key}, ["0"])
    with pytest.raises(InvalidRequestError, match="2 values; it takes 1"):
        model.read({**context, key: ["0", "0"]}, ["0"])
    with pytest.raises(InvalidRequestError, match=f"'{num_items}'"):
        model.read(context, [str(num_items)])
    with pytest.raises(InvalidRequestError, match="say which candidates"):
        model.read(context, None)


def test_a_seed_makes_the_same_files_again(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        make("small", tmp_path / name, seed)
    for file in sorted((tmp_path / "a").iterdir()):
        again = [(tmp_path / name / file.name).read_bytes() for name in "bc"]
        assert again[0] == file.read_bytes()
        assert again[1] != file.read_bytes() or file.name == "model.json"


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
    assert len(list((tmp_path / "m").iterdir())) == 49
    assert main(["small", str(tmp_path / "m")]) == 1
    assert "not empty" in capsys.readouterr().err
