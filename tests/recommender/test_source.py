"""What may be restructured: folders with and without a description; what is wrong is named."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from services.recommender.folder import load_model
from services.recommender.model import Model
from services.recommender.planner.profiles import U280
from services.recommender.planning import Limits
from services.recommender.restructure import read_source, restructure
from services.recommender.safetensors import map_tensors
from shared.errors import InvalidRequestError, ModelError
from tests.recommender.toy import write_source

TABLES = {"a": (4, 3), "b": (6, 2)}


def tables() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in TABLES.items()}


def write_dense(file: Path, inputs: dict[str, int]) -> None:
    """The sum of all inputs' values."""
    kind = TensorProto.FLOAT
    nodes = [helper.make_node("Concat", list(inputs), ["all"], axis=1)]
    nodes.append(helper.make_node("ReduceSum", ["all", "axes"], ["score"], keepdims=1))
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info(n, kind, ["rows", w]) for n, w in inputs.items()],
        [helper.make_tensor_value_info("score", kind, ["rows", 1])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), file)


def write(folder: Path, inputs: dict[str, int]) -> Path:
    folder.mkdir()
    for name, table in tables().items():
        np.save(folder / f"{name}.npy", table)
    write_dense(folder / "dense.onnx", inputs)
    return folder


def serve(source: Path, out: Path) -> Model:
    restructure(read_source(source), out, U280, Limits(max_growth=9), lambda share, what: None)
    return load_model(out, slice_rows=8, num_threads=1)


def expected(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    rows = [tables()["a"][a], tables()["b"][b]]
    return np.concatenate(rows, axis=1).sum(axis=1)


@pytest.mark.parametrize(
    "inputs",
    [{"a": 3, "b": 2}, {"b": 2, "a": 3}, {"features": 5}, {"a": 3, "b": 2, "numbers": 4}],
    ids=lambda inputs: "-".join(inputs),
)
def test_tables_without_description_are_fields_of_their_names(
    inputs: dict[str, int], tmp_path: Path
) -> None:
    model = serve(write(tmp_path / "s", inputs), tmp_path / "m")
    a, b = np.array([3, 0, 1]), np.array([5, 2, 0])
    numbers = np.arange(12, dtype=np.float32).reshape(3, 4)
    given = {"a": a, "b": b} | ({"numbers": numbers} if "numbers" in inputs else {})
    ((found,),) = model.score([model.read_tensors(given, 9)])
    more = numbers.sum(axis=1) if "numbers" in inputs else 0
    np.testing.assert_allclose(found[:, 0], expected(a, b) + more, rtol=1e-5)


def test_one_row_of_an_input_holds_for_all_items(tmp_path: Path) -> None:
    model = serve(write(tmp_path / "s", {"a": 3, "b": 2}), tmp_path / "m")
    b = np.arange(6)
    ((found,),) = model.score([model.read_tensors({"a": np.array([2]), "b": b}, 9)])
    np.testing.assert_allclose(found[:, 0], expected(np.full(6, 2), b), rtol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"a": np.array([1])}, "input 'b' is missing"),
        ({"a": np.array([1]), "b": np.array([1]), "c": np.array([1])}, "no input 'c'.* has a, b"),
        ({"a": np.array([1.5], np.float32), "b": np.array([1])}, "'a' holds float32; .* int64"),
        ({"a": np.array([[1, 2]]), "b": np.array([1])}, r"'a' is \[1, 2\]; needed is \['rows'\]"),
        ({"a": np.array([1, 2]), "b": np.array([1, 2, 3])}, "a 2, b 3; all have one, or the same"),
        ({"a": np.zeros(0, np.int64), "b": np.array([1])}, "'a' has no rows"),
        ({"a": np.array([4]), "b": np.array([1])}, "'a' holds id 4; its table has rows 0 to 3"),
        ({"a": np.array([1]), "b": np.array([-1])}, "'b' holds id -1"),
        ({"a": np.arange(10) % 4, "b": np.array([1])}, "10 items; at most 9"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    inputs: dict[str, np.ndarray], sentence: str, tmp_path: Path
) -> None:
    model = serve(write(tmp_path / "s", {"a": 3, "b": 2}), tmp_path / "m")
    with pytest.raises(InvalidRequestError, match=sentence):
        model.read_tensors(inputs, 9)


def test_a_model_without_names_says_what_to_send_instead(tmp_path: Path) -> None:
    model = serve(write(tmp_path / "s", {"a": 3, "b": 2}), tmp_path / "m")
    with pytest.raises(InvalidRequestError, match=r"knows no names; send its inputs \(a, b\)"):
        model.read({}, ["1"])


def test_safetensors_are_mapped_with_their_names(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", {"a": 3, "b": 2})
    served = serve(folder, tmp_path / "m")
    for file in folder.glob("*.npy"):
        file.unlink()
    half = {"a.weight": tables()["a"], "b": tables()["b"], "bias": np.zeros(3, np.float32)}
    save_file({n: t for n, t in half.items() if t.ndim == 2}, folder / "t.safetensors")
    again = serve(folder, tmp_path / "n")
    arenas = [(tmp_path / name / "arena.bin").read_bytes() for name in ("m", "n")]
    assert arenas[0] == arenas[1]
    assert again.layout.inputs == served.layout.inputs


def header(content: object, data: bytes = b"") -> bytes:
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + data


ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "no .safetensors file"),
        (struct.pack("<Q", 1 << 60), "no .safetensors file"),
        (struct.pack("<Q", 3) + b"{]}", "broken header"),
        (header([1]), "broken header"),
        (header({"t": ENTRY}, bytes(15)), "cut off"),
        (header({"t": ENTRY | {"shape": [2, 3]}}, bytes(16)), "cut off"),
        (header({"t": ENTRY | {"shape": [-2, -2]}}, bytes(16)), "cut off"),
        (header({"t": ENTRY | {"data_offsets": [-16, 0]}}, bytes(16)), "broken header"),
        (header({"t": ENTRY | {"dtype": "BF16"}}, bytes(16)), "is BF16; supported are"),
        (header({"t": {"dtype": "F32"}}), "broken header"),
        (header({"t": ENTRY | {"shape": [1 << 40, 1 << 40]}}, bytes(16)), "cut off"),
    ],
)
def test_a_broken_safetensors_file_is_named(content: bytes, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "t.safetensors"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=sentence) as caught:
        map_tensors(file)
    assert str(file) in str(caught.value)


def drop_dense(folder: Path) -> None:
    (folder / "mlp.onnx").unlink()


def two_inputs(folder: Path) -> None:
    write_dense(folder / "mlp.onnx", {"a": 4, "b": 24})


def edit(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "model.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (drop_dense, "mlp.onnx is not there"),
        (two_inputs, "has inputs a, b; needed is one"),
        (edit(dense=3), "model.json: dense: "),
        (edit(context_fields=[{"name": "x"}]), "model.json: context_fields.0"),
        (edit(candidate_fields=[{"name": "x", "table": "none"}]), "reads table none; there are"),
        (
            edit(candidate_fields=[{"name": "x", "table": "item", "ids_of": "y"}]),
            "reads the ids of y, which is no candidate field before it",
        ),
        (lambda f: (f / "items.txt").unlink(), "items.txt is not there"),
        (lambda f: (f / "item.npy").write_bytes(b"x"), "no .npy file"),
        (lambda f: np.save(f / "item.npy", np.zeros((8, 4))), "is float64"),
    ],
)
def test_a_source_that_is_not_whole_is_refused_with_the_reason(
    change: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    write_source(tmp_path / "s")
    change(tmp_path / "s")
    with pytest.raises(ModelError, match=sentence):
        restructure(
            read_source(tmp_path / "s"), tmp_path / "m", U280, Limits(), lambda share, what: None
        )
    assert not (tmp_path / "m" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"a": 3}, "has no input for b"),
        ({"x": 4}, "one for each table .a, b., or one of their 5 values"),
    ],
)
def test_a_dense_part_that_fits_no_tables_is_refused(
    inputs: dict[str, int], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=sentence):
        read_source(write(tmp_path / "s", inputs))
    (tmp_path / "s" / "other.onnx").touch()
    with pytest.raises(ModelError, match=r"has 2 \.onnx files"):
        read_source(tmp_path / "s")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="has no tables"):
        read_source(tmp_path / "empty")
