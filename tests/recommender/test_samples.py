"""Requests that set the scales of int8: drawn or read from a file; and the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from services.recommender import samples
from services.recommender.folder import load_model
from services.recommender.layout import Layout, Tensor
from services.recommender.manifest import load_manifest, save_manifest
from services.recommender.model import Model
from services.recommender.quantize import main, quantize_model
from services.recommender.samples import draw_samples, read_samples
from shared.errors import ModelError
from shared.lm.manifest import checksum
from tests.recommender.toy import DIM, ITEMS, write_toy

IDS = {
    "place": np.array([[0, 1], [2, -1], [3, -1], [1, 2], [-1, -1], [2, 2]]),
    "seen": np.arange(18).reshape(6, 3) % 8,
    "last": np.arange(6).reshape(6, 1) % 8,
    "seen_roots": np.array([[1]]),
    "number": np.array([[4, 4, 3]] * 6),
    "item": np.array([1, 2, 3, 4, 5, 7]),
    "root": np.array([1, 1, 1, 2, 2, 4]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("samples") / "toy"
    write_toy(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model(folder, slice_rows=16, num_threads=1)


def test_random_requests_have_every_item_and_are_those_of_their_seed(
    folder: Path, model: Model
) -> None:
    first, again, other = (draw_samples(model, folder, 5, seed) for seed in (1, 1, 2))
    for request in first:
        assert {name: array.shape for name, array in request.items()} == {
            "features": (len(ITEMS), DIM * 7)
        }
        # Candidates are all items; the context is one, and holds something.
        assert len(np.unique(request["features"], axis=0)) == len(ITEMS)
        context = request["features"][:, : DIM * 5]
        assert len(np.unique(context, axis=0)) == 1
        assert np.abs(context[0].reshape(5, DIM)).min(axis=1).all()
    for a, b, c in zip(first, again, other, strict=True):
        assert a["features"].tobytes() == b["features"].tobytes() != c["features"].tobytes()


def test_of_a_large_catalogue_some_items_are_drawn(
    folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "MAX_ITEMS", 3)
    (request,) = draw_samples(model, folder, 1, 0)
    assert request["features"].shape == (3, DIM * 7)


def test_a_model_that_refuses_random_requests_says_why(tmp_path: Path) -> None:
    """Its items' roots have no rows."""
    layout = write_toy(tmp_path / "m")
    (tmp_path / "m" / "roots.txt").write_text("k\nl\nm\nn\n")
    fields = [replace(f, unknown="reject") if f.name == "seen_roots" else f for f in layout.fields]
    files = {**layout.files, "roots.txt": checksum(tmp_path / "m" / "roots.txt")}
    save_manifest(replace(layout, fields=fields, files=files), tmp_path / "m")
    with pytest.raises(ModelError, match=r"m refuses random requests, as context\.seen holds '"):
        quantize_model(tmp_path / "m", tmp_path / "out", 8)


def test_samples_of_a_file_are_what_the_served_model_gathers(
    folder: Path, model: Model, tmp_path: Path
) -> None:
    np.savez(tmp_path / "ids.npz", **IDS)
    found = read_samples(model, tmp_path / "ids.npz")
    query = model.read_tensors(IDS, 16)
    np.testing.assert_array_equal(found["features"], model.engine.inputs(query)["features"])
    effect = quantize_model(folder, tmp_path / "out", tmp_path / "ids.npz")
    assert effect.num_scores == 3  # every second one
    load_model(tmp_path / "out", slice_rows=16, num_threads=1)


def test_a_broken_file_of_samples_is_refused(folder: Path, tmp_path: Path) -> None:
    def refused(name: str, sentence: str) -> None:
        with pytest.raises(ModelError, match=sentence) as caught:
            quantize_model(folder, tmp_path / "out", tmp_path / name)
        assert name in str(caught.value)
        assert not (tmp_path / "out").exists()

    refused("absent.npz", "is no .npz file of arrays")
    (tmp_path / "text.npz").write_text("features")
    refused("text.npz", "is no .npz file of arrays")
    np.save(tmp_path / "one.npy", IDS["item"])
    refused("one.npy", "is no .npz file of arrays: it is one array")
    np.savez(tmp_path / "objects.npz", **{**IDS, "item": np.array([{}, 1])})
    refused("objects.npz", "is no .npz file of arrays")
    cut = (tmp_path / "objects.npz").read_bytes()[:-30]
    (tmp_path / "cut.npz").write_bytes(cut)
    refused("cut.npz", "is no .npz file of arrays")
    np.savez(tmp_path / "less.npz", **{n: a for n, a in IDS.items() if n != "place"})
    refused("less.npz", "input 'place' is missing")
    np.savez(tmp_path / "more.npz", **IDS, colour=IDS["item"])
    refused("more.npz", "no input 'colour'; this model has place, ")
    np.savez(tmp_path / "high.npz", **{**IDS, "item": IDS["item"] + 1})
    refused("high.npz", "input 'item' holds id 8; its table has rows 0 to 7")
    np.savez(tmp_path / "short.npz", **{n: a[:3] for n, a in IDS.items()})
    refused("short.npz", "is of 3 items; needed are at least 4")


def with_numbers(folder: Path, out: Path) -> Layout:
    """A toy that is also given a number with each item."""
    layout = write_toy(out)
    model = onnx.load(out / "dense.onnx")
    price = helper.make_tensor_value_info("price", TensorProto.FLOAT, ["rows", 1])
    model.graph.input.append(price)
    score = model.graph.node[-1].output[0]
    model.graph.node[-1].output[0] = "without"
    model.graph.node.append(helper.make_node("Add", ["without", "price"], [score]))
    onnx.save(model, out / "dense.onnx")
    inputs = [*layout.inputs, Tensor("price", "float32", [1])]
    files = {**layout.files, "dense.onnx": checksum(out / "dense.onnx")}
    changed = replace(layout, inputs=inputs, files=files, catalogue=None)
    save_manifest(changed, out)
    return changed


def test_numbers_are_not_drawn_but_read(folder: Path, tmp_path: Path) -> None:
    with_numbers(folder, tmp_path / "m")
    with pytest.raises(ModelError, match=r"takes numbers, price, .* by --samples FILE\.npz"):
        quantize_model(tmp_path / "m", tmp_path / "out", 8)
    price = np.arange(6, dtype=np.float32).reshape(6, 1)
    np.savez(tmp_path / "ids.npz", **IDS, price=price)
    quantize_model(tmp_path / "m", tmp_path / "out", tmp_path / "ids.npz")
    scores = []
    for name in ("m", "out"):
        model = load_model(tmp_path / name, slice_rows=16, num_threads=1)
        query = model.read_tensors({**IDS, "price": price}, 16)
        scores.append(model.score([query])[0][0])
    assert 0 < np.abs(scores[0] - scores[1]).max() < 0.3


def test_a_score_that_is_not_finite_is_refused(folder: Path, tmp_path: Path) -> None:
    layout = write_toy(tmp_path / "m")
    model = onnx.load(tmp_path / "m" / "dense.onnx")
    last = next(i for i in model.graph.initializer if i.name == "weight2")
    huge = np.full(last.dims, 3e38, np.float32)
    last.CopyFrom(onnx.numpy_helper.from_array(huge, last.name))
    onnx.save(model, tmp_path / "m" / "dense.onnx")
    files = {**layout.files, "dense.onnx": checksum(tmp_path / "m" / "dense.onnx")}
    save_manifest(replace(layout, files=files), tmp_path / "m")
    with pytest.raises(ModelError, match="differ by what is no finite number"):
        quantize_model(tmp_path / "m", tmp_path / "out", 8)
    assert not (tmp_path / "out").exists()


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main([str(folder), str(out), "--samples", "8", "--seed", "5"]) == 0
    shown = capsys.readouterr().out
    assert f"{out}: of 28 scores of other samples, with a standard deviation of 0." in shown
    assert "(Spearman), " in shown
    assert load_manifest(out).files.keys() == load_manifest(folder).files.keys()
    for arguments, sentence in (
        ([folder, out], f"{out} is not empty; choose another folder"),
        ([folder, tmp_path / "b", "--samples", "0"], "0 random requests; allowed are 1 to 256"),
        ([folder, tmp_path / "b", "--samples", "257"], "257 random requests; allowed are 1 to"),
        ([folder, tmp_path / "b", "--samples", "x.npz"], "x.npz is no .npz file of arrays"),
        ([tmp_path, tmp_path / "b"], "is no ranking model: it has no manifest.json"),
        ([out, tmp_path / "b"], "is quantized already; quantize the model in fp32"),
    ):
        assert main([str(argument) for argument in arguments]) == 1
        shown = capsys.readouterr().err
        assert shown.startswith("quantize: ")
        assert sentence in shown
        assert shown.count("\n") == 1
        assert not (tmp_path / "b").exists()
