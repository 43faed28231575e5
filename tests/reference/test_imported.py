"""Whole graphs of torch's exporters, restructured and served: the scores of the graph itself."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from services.recommender.folder import load_model
from services.recommender.model import Model
from services.recommender.planner.profiles import U280
from services.recommender.planning import Limits
from services.recommender.restructure import main, read_source, restructure
from shared.errors import InvalidRequestError, ModelError
from tests.reference.test_split import DeepFm, Dlrm, Ragged, WideAndDeep, inputs

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

pytestmark = [pytest.mark.reference, pytest.mark.timeout(300)]

Arrays = dict[str, np.ndarray]


def export(kind: type, file: Path, is_new: bool) -> Path:
    """With any number of items."""
    torch.manual_seed(0)
    given = inputs(kind)
    arguments = tuple(torch.from_numpy(array) for array in given.values())
    axes: dict[str, object]
    if is_new:
        sizes = {"ids": torch.export.Dim("ids")} if kind is Ragged else {}
        rows = torch.export.Dim("rows")
        shapes = tuple({0: sizes.get(name, rows)} for name in given)
        axes = {"dynamic_shapes": shapes}
    else:
        axes = {"dynamic_axes": {name: {0: f"{name}_rows"} for name in given}, "opset_version": 17}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            kind().eval(),
            arguments,
            str(file),
            dynamo=is_new,
            input_names=list(given),
            **axes,
        )
    return file


def of_items(kind: type, num_items: int, seed: int) -> Arrays:
    """Inputs for another number of items than the export saw."""
    made = inputs(kind, seed)
    if kind is Ragged:
        rng = np.random.default_rng(seed)
        offsets = np.sort(rng.integers(0, 20, num_items))
        offsets[0] = 0
        other = rng.integers(0, 50, (num_items, 3))
        return {"ids": rng.integers(0, 50, 20), "offsets": offsets, "other": other}
    return {name: np.concatenate([array] * 4)[:num_items] for name, array in made.items()}


def whole(file: Path, feeds: Arrays) -> np.ndarray:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})
    return scores


def serve(file: Path, out: Path, limits: Limits = Limits(max_growth=9)) -> Model:  # noqa: B008
    restructure(read_source(file), out, U280, limits, lambda share, what: None)
    return load_model(out, slice_rows=8, num_threads=1)


@pytest.mark.parametrize("is_new", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("kind", [Dlrm, WideAndDeep, DeepFm, Ragged])
def test_a_restructured_graph_gives_its_own_scores(
    kind: type, is_new: bool, tmp_path: Path
) -> None:
    file = export(kind, tmp_path / "model.onnx", is_new)
    model = serve(file, tmp_path / "m")
    for num_items in (1, 2, 17):
        feeds = of_items(kind, num_items, num_items)
        ((found,),) = model.score([model.read_tensors(feeds, 100)])
        np.testing.assert_allclose(found, whole(file, feeds), rtol=0, atol=1e-5)


def test_bags_that_are_out_of_bounds_are_refused(tmp_path: Path) -> None:
    model = serve(export(Ragged, tmp_path / "model.onnx", is_new=False), tmp_path / "m")
    feeds = of_items(Ragged, 3, 0)
    for offsets in ([0, 99, 3], [5, 2, 7], [-4, 0, 1]):
        with pytest.raises(InvalidRequestError, match="bags begin before"):
            model.read_tensors({**feeds, "offsets": np.array(offsets)}, 9)


def test_tables_that_the_same_ids_read_are_joined(tmp_path: Path) -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.deep = torch.nn.Embedding(50, 1), torch.nn.Embedding(50, 8)
            self.other = torch.nn.Embedding(7, 3)
            self.top = torch.nn.Linear(11, 1)

        def forward(self, user, age):
            rows = torch.cat([self.deep(user), self.other(age)], 1)
            return torch.sigmoid(self.wide(user) + self.top(rows))

    feeds = {"user": np.array([3, 49, 0, 7]), "age": np.array([6, 0, 1, 2])}
    file = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Two().eval(),
            tuple(torch.from_numpy(ids) for ids in feeds.values()),
            str(file),
            dynamo=False,
            input_names=list(feeds),
            dynamic_axes={name: {0: "rows"} for name in feeds},
        )
    model = serve(file, tmp_path / "m", Limits(max_growth=0.0))
    assert sorted(len(stored.parts) for stored in model.layout.stored) == [1, 2]
    assert [tensor.name for tensor in model.layout.inputs] == ["user", "age"]
    assert model.layout.indices is None
    ((found,),) = model.score([model.read_tensors(feeds, 9)])
    np.testing.assert_allclose(found, whole(file, feeds), rtol=0, atol=1e-5)
    feeds["user"] = np.array([7])
    ((found,),) = model.score([model.read_tensors(feeds, 9)])
    assert len(found) == 4
    with pytest.raises(InvalidRequestError, match="'user' holds id 50"):
        model.read_tensors({"user": np.array([50]), "age": np.array([0])}, 9)


def test_weights_in_files_of_their_own_are_found_there(tmp_path: Path) -> None:
    import onnx

    file = export(DeepFm, tmp_path / "model.onnx", is_new=False)
    onnx.save(
        onnx.load(file),
        tmp_path / "apart.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    feeds = of_items(DeepFm, 5, 1)
    model = serve(tmp_path / "apart.onnx", tmp_path / "m")
    ((found,),) = model.score([model.read_tensors(feeds, 9)])
    np.testing.assert_allclose(found, whole(file, feeds), rtol=0, atol=1e-5)
    (tmp_path / "weights.bin").write_bytes(b"short")
    with pytest.raises(ModelError, match=r"weights\.bin is missing or cut off"):
        read_source(tmp_path / "apart.onnx")


def test_the_command_takes_a_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = export(WideAndDeep, tmp_path / "model.onnx", is_new=False)
    assert main([str(file), str(tmp_path / "m")]) == 0
    assert "6 tables stored as" in capsys.readouterr().out
    (tmp_path / "broken.onnx").write_bytes(b"\xff" * 30)
    assert main([str(tmp_path / "broken.onnx"), str(tmp_path / "n")]) == 1
    assert "is no ONNX graph" in capsys.readouterr().err
