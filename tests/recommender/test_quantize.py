"""The dense part in int8: close to fp32, the same bits in any batch, in a folder that is whole."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper, parser

from services.recommender.comparison import compare
from services.recommender.dense import open_session
from services.recommender.folder import load_model
from services.recommender.generate import generate
from services.recommender.graph import Layer, write_graph
from services.recommender.layout import Layout
from services.recommender.manifest import load_manifest, version_of
from services.recommender.planner.profiles import U280
from services.recommender.planning import Limits
from services.recommender.quantize import quantize_dense, quantize_model
from services.recommender.query import Query
from services.recommender.restructure import read_source, restructure
from services.recommender.samples import draw_samples
from shared.errors import ModelError
from shared.lm.manifest import checksum
from tests.recommender.toy import write_toy

Samples = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`toy` has dot products, `paper` the MicroRec MLP, `pooled` tables alone and bags of ids;
    each `*8` is its int8."""
    path = tmp_path_factory.mktemp("quantize")
    write_toy(path / "toy")
    generate("small", path / "source", 1e-4, 0, lambda share, what: None)
    restructured(path / "source", path / "paper")
    write_pooled(path / "pooled")
    for name in ("toy", "paper", "pooled"):
        quantize_model(path / name, path / f"{name}8", 8)
    return path


def restructured(source: Path, out: Path) -> Layout:
    return restructure(read_source(source), out, U280, Limits(), lambda share, what: None)[0]


def write_pooled(folder: Path) -> None:
    """A model that is asked by tensors alone: one id an item, a bag of any length, one of three."""
    source = folder.with_name(f"{folder.name}.source")
    source.mkdir()
    rng = np.random.default_rng(1)
    for name in ("one", "any", "three"):
        np.save(source / f"{name}.npy", rng.standard_normal((9, 4), np.float32))
    layers = [
        Layer(rng.standard_normal((i, o), np.float32), rng.standard_normal(o, np.float32))
        for i, o in ((12, 32), (32, 1))
    ]
    write_graph(source / "mlp.onnx", 12, layers, None)
    made = read_source(source)
    lengths = {"one": 1, "any": None, "three": 3}
    pooled = replace(
        made,
        fields=[replace(field, length=lengths[field.name]) for field in made.fields],
        lookups=[replace(x, pooling=None if x.field == "one" else "mean") for x in made.lookups],
    )
    restructure(pooled, folder, U280, Limits(), lambda share, what: None)


def inputs_of(folder: Path, count: int, seed: int) -> list[dict[str, np.ndarray]]:
    model = load_model(folder, num_threads=1)
    return draw_samples(model, folder, count, seed)


def joined(requests: Sequence[Samples]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([r[name] for r in requests]) for name in requests[0]}


@pytest.mark.parametrize(
    ("name", "mean", "largest", "rho"),
    [("toy", 0.04, 0.15, 0.95), ("paper", 0.08, 0.4, 0.98), ("pooled", 0.04, 0.15, 0.99)],
)
def test_scores_move_by_a_small_share_of_their_spread(
    folders: Path, name: str, mean: float, largest: float, rho: float
) -> None:
    unseen = inputs_of(folders / name, 8, seed=1234)
    found = compare(folders / name / "dense.onnx", folders / f"{name}8" / "dense.onnx", unseen)
    assert 0 < found.mean < mean * found.spread
    assert found.largest < largest * found.spread
    assert rho < found.spearman <= 1
    assert found.kendall > 0.9


def test_layers_lie_beside_a_graph_that_is_nothing_else(folders: Path) -> None:
    found = {name: load_manifest(folders / f"{name}8") for name in ("toy", "paper", "pooled")}
    assert {name: layout.layers for name, layout in found.items()} == {
        "toy": None, "paper": "layers.npz", "pooled": "layers.npz",
    }  # fmt: skip
    assert "layers.npz" in found["paper"].files
    assert version_of(replace(found["paper"], layers=None)) != version_of(found["paper"])


def test_a_model_without_layers_is_the_version_that_it_was(folders: Path) -> None:
    layout = load_manifest(folders / "toy8")
    before = {name: value for name, value in asdict(layout).items() if name != "layers"}
    listed = json.dumps(before, sort_keys=True)
    assert version_of(layout) == hashlib.sha256(listed.encode()).hexdigest()[:12]


@pytest.mark.parametrize("content", [None, b"nonsense"], ids=["absent", "other"])
def test_broken_layers_are_refused_by_name(
    folders: Path, tmp_path: Path, content: bytes | None
) -> None:
    folder = shutil.copytree(folders / "paper8", tmp_path / "model")
    (folder / "layers.npz").unlink()
    if content is not None:
        (folder / "layers.npz").write_bytes(content)
    with pytest.raises(ModelError, match=r"layers\.npz"):
        load_model(folder, num_threads=1)


@functools.cache
def samples_of(folder: Path) -> dict[str, np.ndarray]:
    """Some 200 rows."""
    requests = inputs_of(folder, 30, seed=7)
    return joined([{n: array[: 200 // 30 + 1] for n, array in r.items()} for r in requests])


@pytest.mark.parametrize("name", ["toy", "paper", "pooled"])
@settings(max_examples=25)
@given(st.data())
def test_scores_are_the_same_bits_whatever_shares_the_batch(
    folders: Path, name: str, data: st.DataObject
) -> None:
    session = session_of(folders / f"{name}8" / "dense.onnx")
    samples = samples_of(folders / name)
    num_rows = len(next(iter(samples.values())))
    order = np.random.default_rng(data.draw(st.integers(0, 1 << 30))).permutation(num_rows)
    whole = run(session, {n: array[order] for n, array in samples.items()})
    start = 0
    for size in data.draw(st.lists(st.integers(2, num_rows // 3), min_size=1, max_size=9)):
        part = order[start : start + size]
        if len(part) < 2:
            break
        scores = run(session, {n: array[part] for n, array in samples.items()})
        assert scores.tobytes() == whole[start : start + size].tobytes()
        start += size


@functools.cache
def session_of(file: Path) -> onnxruntime.InferenceSession:
    return open_session(file)


def run(session: onnxruntime.InferenceSession, samples: Samples) -> np.ndarray:
    (scores,) = session.run(None, {n: np.ascontiguousarray(a) for n, a in samples.items()})
    return scores


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_the_served_model_answers_the_same_bits_alone_and_together(
    folders: Path, num_threads: int
) -> None:
    model = load_model(folders / "paper8", slice_rows=64, num_threads=num_threads)
    rng = np.random.default_rng(3)
    sizes = [(c, model.layout.field(n).num_rows) for n, c in model.engine.columns.items()]
    queries = [
        Query(n, [(columns, rng.integers(rows, size=(n, 1))) for columns, rows in sizes])
        for n in (1, 2, 63, 64, 65, 200, 1)
    ]
    together = model.rank(queries)
    alone = [model.rank([query])[0] for query in queries]
    assert [scores.tobytes() for scores in together] == [scores.tobytes() for scores in alone]


@pytest.mark.parametrize(("name", "layers"), [("toy", 3), ("paper", 4), ("pooled", 2)])
def test_weights_have_seven_bits_and_onnxruntime_multiplies_bytes(
    folders: Path, tmp_path: Path, name: str, layers: int
) -> None:
    file = folders / f"{name}8" / "dense.onnx"
    weights = [
        numpy_helper.to_array(i)
        for i in onnx.load(file).graph.initializer
        if i.data_type == onnx.TensorProto.INT8 and len(i.dims) == 2
    ]
    assert len(weights) == layers
    # Two products with bytes must fit in 16 bits.
    assert all(2 * 255 * np.abs(array.astype(int)).max() < 1 << 15 for array in weights)
    kinds = fused(file, tmp_path)
    assert kinds.count("QGemm") == layers
    assert kinds.count("QuantizeLinear") == 1
    assert not {"Gemm", "MatMul", "Relu", "Identity", "DequantizeLinear"} & set(kinds)
    assert ("FusedMatMul" in kinds) == (name == "toy")  # of two activations: it stays fp32


def fused(file: Path, folder: Path) -> list[str]:
    """Kinds of nodes that onnxruntime makes of a graph."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


def test_only_layers_read_bytes(tmp_path: Path) -> None:
    """Another reader of a layer's input has it as it was; products without bias are layers."""
    weights = np.random.default_rng(0).standard_normal((2, 4, 4)).astype(np.float32)
    save(
        tmp_path / "m.onnx",
        """
        (float[rows, 4] x) => (float[rows, 4] y, float[rows, 4] doubled)
        <float[4, 4] a, float[4, 4] b, float[4] bias> {
            p = MatMul(x, a)
            q = Add(p, bias)
            s = Sigmoid(q)
            y = MatMul(s, b)
            doubled = Add(x, x)
        }
        """,
        a=weights[0],
        b=weights[1],
        bias=weights[0, 0],
    )
    x = np.linspace(-1, 1, 80, dtype=np.float32).reshape(20, 4)
    quantize_dense(tmp_path / "m.onnx", tmp_path / "q.onnx", {"x": x})
    y, doubled = open_session(tmp_path / "q.onnx").run(None, {"x": x})
    expected = open_session(tmp_path / "m.onnx").run(None, {"x": x})[0]
    assert doubled.tobytes() == (x + x).tobytes()
    assert 0 < np.abs(y - expected).max() < 0.05
    graph = onnx.load(tmp_path / "q.onnx").graph
    assert [node.op_type for node in graph.node].count("QuantizeLinear") == 2


def save(file: Path, text: str, **constants: np.ndarray) -> None:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    for initializer in list(model.graph.initializer):
        model.graph.initializer.remove(initializer)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in constants.items())
    onnx.save(model, file)


def test_the_folder_is_whole_and_only_the_dense_part_is_another(folders: Path) -> None:
    before, after = load_manifest(folders / "toy"), load_manifest(folders / "toy8")
    assert version_of(before) != version_of(after)
    assert replace(after, files=before.files) == before
    assert {n for n, sum_ in after.files.items() if sum_ != before.files[n]} == {"dense.onnx"}
    names = {file.name for file in (folders / "toy8").iterdir()}
    assert names == {*after.files, "manifest.json"}
    assert all(checksum(folders / "toy8" / n) == sum_ for n, sum_ in after.files.items())
    query = {"place": ["x"], "seen": ["a", "d"]}
    models = [load_model(folders / n, slice_rows=8, num_threads=1) for n in ("toy", "toy8")]
    scores = [model.rank([model.read(query, None).query])[0] for model in models]
    np.testing.assert_allclose(*scores, atol=0.2)
    assert scores[0].tobytes() != scores[1].tobytes()


def test_files_are_linked_where_they_can_be(folders: Path) -> None:
    for name in ("arena.bin", "items.txt"):
        assert (folders / "toy8" / name).samefile(folders / "toy" / name)


def test_files_are_copied_where_they_cannot_be_linked(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    quantize_model(folders / "toy", tmp_path / "out", 8)
    assert not (tmp_path / "out" / "arena.bin").samefile(folders / "toy" / "arena.bin")
    assert load_manifest(tmp_path / "out") == load_manifest(folders / "toy8")


GOOD = np.zeros((4, 28), np.float32)


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        ({}, "samples are of nothing; .* has inputs features"),
        ({"other": GOOD}, "samples are of other; .* has inputs features"),
        ({"features": GOOD.astype(np.float64)}, r"float64 \[4, 28\]; needed is float32 \['rows'"),
        ({"features": GOOD[:, 1:]}, r"\[4, 27\]; needed is float32 \['rows', 28\]"),
        ({"features": GOOD[0]}, r"\[28\]; needed is float32"),
        ({"features": GOOD[:0]}, "samples have 0 rows"),
        ({"features": GOOD + np.float32("nan")}, "features hold a value that is not finite"),
        ({"features": GOOD - np.float32("inf")}, "features hold a value that is not finite"),
    ],
)
def test_broken_samples_are_refused(
    folders: Path, tmp_path: Path, samples: Samples, sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        quantize_dense(folders / "toy" / "dense.onnx", tmp_path / "out.onnx", samples)
    assert not list(tmp_path.iterdir())


def test_a_graph_that_cannot_be_quantized_is_refused(folders: Path, tmp_path: Path) -> None:
    x = {"x": np.ones((4, 4), np.float32)}
    out = tmp_path / "out.onnx"
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelError, match=r"broken\.onnx is no graph that onnxruntime loads"):
        quantize_dense(tmp_path / "broken.onnx", out, x)
    save(tmp_path / "none.onnx", "(float[rows, 4] x) => (float[rows, 4] y) { y = Relu(x) }")
    with pytest.raises(ModelError, match="no layer to quantize: no Gemm or MatMul"):
        quantize_dense(tmp_path / "none.onnx", out, x)
    features = {"features": np.ones((4, 28), np.float32)}
    with pytest.raises(ModelError, match="quantized already"):
        quantize_dense(folders / "toy8" / "dense.onnx", out, features)
    model = onnx.load(folders / "pooled" / "dense.onnx")
    model.opset_import[0].version = 11
    onnx.save(model, tmp_path / "old.onnx")
    with pytest.raises(ModelError, match="of opset 11; needed is 13 or a newer one"):
        quantize_dense(tmp_path / "old.onnx", out, {"features": np.ones((4, 12), np.float32)})
    assert not out.exists()


def test_a_layer_that_reads_nothing_but_zeros_is_quantized(folders: Path, tmp_path: Path) -> None:
    features = {"features": np.zeros((9, 28), np.float32)}
    dense = folders / "toy" / "dense.onnx"
    quantize_dense(dense, tmp_path / "out.onnx", features)
    assert compare(dense, tmp_path / "out.onnx", [features]).largest < 0.1
