"""Layers in int8 as machine code: ONNX Runtime's bits, by all instructions that this CPU has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from services.recommender.chain import read_chain
from services.recommender.dense import Bound, Dense, open_session
from services.recommender.layers import Layer, Layers, read_layers
from services.recommender.layers_code import Instructions
from services.recommender.layers_kernel import (
    MAX_WEIGHT,
    BoundLayers,
    LayersKernel,
    fastest,
    usable,
)
from services.recommender.quantize import quantize_dense
from shared.errors import ModelError

pytestmark = pytest.mark.skipif(not usable(), reason="this CPU multiplies no bytes")
MAX_ROWS = 70


def random_layers(sizes: Sequence[int], seed: int, zero_points: Sequence[int]) -> Layers:
    """Layers of so many inputs, the last one's outputs behind them."""
    rng = np.random.default_rng(seed)
    layers = (
        Layer(
            np.float32(rng.uniform(0.005, 0.05)),
            zero_point,
            rng.integers(-MAX_WEIGHT, MAX_WEIGHT, shape, np.int8, endpoint=True),
            rng.uniform(0.001, 0.02, shape[1]).astype(np.float32),
            rng.integers(-9000, 9000, shape[1], np.int32),
        )
        for shape, zero_point in zip(pairwise(sizes), zero_points, strict=True)
    )
    return Layers(tuple(layers))


def to_bytes(values: np.ndarray, zero_point: int) -> np.ndarray:
    """Of float32, already divided by their scale."""
    low, high = np.float32(-zero_point), np.float32(255 - zero_point)
    return np.rint(np.clip(values, low, high)).astype(np.int64) + zero_point


def twin(layers: Layers, rows: np.ndarray) -> np.ndarray:
    """What must come out, in plain numpy."""
    first = layers.layers[0]
    values = to_bytes(rows / first.scale, first.zero_point)
    for number, layer in enumerate(layers.layers):
        sums = (values - layer.zero_point) @ layer.weights.astype(np.int64) + layer.bias
        scores = sums.astype(np.float32) * layers.factors(number)
        if number + 1 < len(layers.layers):
            values = to_bytes(scores, layers.layers[number + 1].zero_point)
    return scores


@pytest.mark.parametrize("instructions", usable())
@settings(max_examples=25)
@given(st.data())
def test_all_instructions_give_the_bits_of_plain_arithmetic(
    instructions: Instructions, data: st.DataObject
) -> None:
    sizes = data.draw(st.lists(st.integers(1, 150), min_size=2, max_size=5))
    zero_points = [data.draw(st.sampled_from((0, 1, 129, 255))) for _ in sizes[1:]]
    seed = data.draw(st.integers(0, 1 << 30))
    layers = random_layers(sizes, seed, zero_points)
    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((MAX_ROWS, sizes[0])) * rng.choice((0.1, 3, 1e30))).astype(
        np.float32
    )
    bound = BoundLayers(LayersKernel(layers, instructions), rows)
    wanted = twin(layers, rows)
    for num_rows in (MAX_ROWS, *data.draw(st.lists(st.integers(1, MAX_ROWS), max_size=4))):
        assert bound.run(num_rows)[0].tobytes() == wanted[:num_rows].tobytes(), num_rows


@pytest.mark.parametrize("instructions", usable())
def test_what_is_no_number_is_what_onnxruntime_makes_of_it(
    instructions: Instructions, tmp_path: Path
) -> None:
    file, layers = chain_of(tmp_path, (37, 48, 21, 1))
    rows = np.random.default_rng(3).standard_normal((40, 37)).astype(np.float32)
    rows[3, 5], rows[4, 6], rows[5, 7], rows[6] = np.nan, np.inf, -np.inf, 3e38
    found = BoundLayers(LayersKernel(layers, instructions), rows).run(40)[0]
    assert found.tobytes() == open_session(file).run(None, {"features": rows})[0].tobytes()


def write_chain(
    file: Path, sizes: Sequence[int], *, has_bias: bool = True, ends: str = "", seed: int = 0
) -> None:
    """A graph in fp32 of layers with Relu between them, and what `ends` names behind the last."""
    rng = np.random.default_rng(seed)
    nodes, constants, value = [], [], "features"
    for number, shape in enumerate(pairwise(sizes)):
        weights = rng.standard_normal(shape).astype(np.float32) / np.sqrt(np.float32(shape[0]))
        constants.append(numpy_helper.from_array(weights, f"w{number}"))
        names = [value, f"w{number}"]
        if has_bias:
            bias = rng.standard_normal(shape[1]).astype(np.float32)
            constants.append(numpy_helper.from_array(bias, f"b{number}"))
            names.append(f"b{number}")
        nodes.append(helper.make_node("Gemm" if has_bias else "MatMul", names, [f"y{number}"]))
        value = f"y{number}"
        if number + 2 < len(sizes):
            nodes.append(helper.make_node("Relu", [value], [f"h{number}"]))
            value = f"h{number}"
    if ends:
        nodes.append(helper.make_node(ends, [value, "features"][: 1 + (ends == "Add")], ["end"]))
        value = "end"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", sizes[0]])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["rows", sizes[-1]])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, file)


def chain_of(folder: Path, sizes: Sequence[int], **options: bool) -> tuple[Path, Layers]:
    """A graph in int8, and its layers."""
    write_chain(folder / "fp32.onnx", sizes, **options)
    samples = np.random.default_rng(1).standard_normal((400, sizes[0])).astype(np.float32)
    quantize_dense(folder / "fp32.onnx", folder / "int8.onnx", {"features": samples})
    layers = read_chain(onnx.load(folder / "int8.onnx"))
    assert layers is not None
    return folder / "int8.onnx", layers


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("sizes", [(64, 1), (5, 7, 3), (352, 100, 65, 17, 2)], ids=str)
def test_layers_of_a_quantized_graph_give_its_bits(
    tmp_path: Path, sizes: Sequence[int], has_bias: bool
) -> None:
    file, layers = chain_of(tmp_path, sizes, has_bias=has_bias)
    assert [len(layer.weights) for layer in layers.layers] == [*sizes[:-1]]
    rows = np.random.default_rng(2).standard_normal((3000, sizes[0])).astype(np.float32) * 2
    bound = BoundLayers(LayersKernel(layers, usable()[0]), rows)
    wanted = open_session(file).run(None, {"features": rows})[0]
    assert bound.run(len(rows))[0].tobytes() == wanted.tobytes()


@pytest.mark.parametrize("ends", ["Sigmoid", "Add", "Relu"])
def test_a_graph_that_is_more_than_layers_is_left_to_onnxruntime(tmp_path: Path, ends: str) -> None:
    write_chain(tmp_path / "fp32.onnx", (8, 16, 8), ends=ends)
    samples = np.random.default_rng(1).standard_normal((400, 8)).astype(np.float32)
    quantize_dense(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", {"features": samples})
    assert read_chain(onnx.load(tmp_path / "int8.onnx")) is None
    assert read_chain(onnx.load(tmp_path / "fp32.onnx")) is None


class TestDense:
    """Which of the two runs."""

    @pytest.fixture(autouse=True)
    def first_is_sooner(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Small layers are done in no time by either."""
        monkeypatch.setattr("services.recommender.dense._shortest", lambda *ways: [2.0, 1.0])

    def test_layers_run_instead_of_the_graph(self, tmp_path: Path) -> None:
        file, layers = chain_of(tmp_path, (24, 40, 2))
        by_layers, by_graph = (Dense(file, {"features": [24]}, own) for own in (layers, None))
        assert by_layers.kernel is not None
        assert by_graph.kernel is None
        assert by_layers.min_rows == 1
        rows = np.random.default_rng(2).standard_normal((90, 24)).astype(np.float32)
        ours, theirs = (Bound(dense, {"features": rows}) for dense in (by_layers, by_graph))
        for num_rows in (90, 2, 33):
            assert ours.run(num_rows)[0].tobytes() == theirs.run(num_rows)[0].tobytes()

    def test_layers_that_are_not_the_graph_do_not_run(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        file, layers = chain_of(tmp_path, (24, 40, 2))
        first, last = layers.layers
        other = Layers((first, replace(last, bias=last.bias + 1)))
        assert Dense(file, {"features": [24]}, other).kernel is None
        assert "its layers give other scores; its graph runs" in caplog.text
        narrower = Layers((first, replace(
            last, weights=last.weights[:, :1], bias=last.bias[:1],
            weight_scales=last.weight_scales[:1],
        )))  # fmt: skip
        assert Dense(file, {"features": [24]}, narrower).kernel is None
        assert "its layers are of other sizes; its graph runs" in caplog.text

    def test_what_takes_longer_does_not_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("services.recommender.dense._shortest", lambda *ways: [1.0, 2.0])
        file, layers = chain_of(tmp_path, (24, 40, 2))
        assert Dense(file, {"features": [24]}, layers).kernel is None

    def test_a_cpu_without_such_instructions_runs_the_graph(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("services.recommender.layers_kernel.usable", list)
        file, layers = chain_of(tmp_path, (24, 40, 2))
        assert Dense(file, {"features": [24]}, layers).kernel is None


@pytest.mark.parametrize(("has", "takes"), [(["avx2"], None), (["vnni", "avx2"], "vnni")])
def test_eight_bits_of_weight_need_more_than_avx2(
    monkeypatch: pytest.MonkeyPatch, has: list[Instructions], takes: Instructions | None
) -> None:
    monkeypatch.setattr("services.recommender.layers_kernel.usable", lambda: has)
    (layer,) = random_layers((5, 2), 0, (0,)).layers
    assert fastest(Layers((layer,))) == has[0]
    wide = replace(layer, weights=np.full((5, 2), -65, np.int8))
    assert fastest(Layers((wide,))) == takes


def test_what_was_written_is_read(tmp_path: Path) -> None:
    layers = random_layers((5, 9, 2), 0, (129, 0))
    layers.save(tmp_path / "layers.npz")
    found = read_layers(tmp_path / "layers.npz")
    for own, other in zip(layers.layers, found.layers, strict=True):
        for name in Layer.__slots__:
            assert np.array_equal(getattr(own, name), getattr(other, name)), name


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"scale": np.float32(0)}, "no sound scale or zero point"),
        ({"zero_point": 256}, "no sound scale or zero point"),
        ({"bias": np.zeros(3, np.int32)}, "a scale or bias too many or too few"),
        ({"weights": np.zeros((7, 2), np.int8)}, "does not read what the one before writes"),
        ({"weights": np.zeros((9, 2), np.int16)}, "not of int8 weights"),
    ],
)
def test_layers_that_cannot_be_are_refused(
    tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    first, last = random_layers((5, 9, 2), 0, (129, 0)).layers
    Layers((first, replace(last, **change))).save(tmp_path / "layers.npz")
    with pytest.raises(ModelError, match=sentence):
        read_layers(tmp_path / "layers.npz")


@pytest.mark.parametrize("content", [b"", b"nonsense", None], ids=["empty", "nonsense", "cut off"])
def test_a_broken_file_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "layers.npz"
    random_layers((5, 9, 2), 0, (129, 0)).save(file)
    file.write_bytes(file.read_bytes()[:-200] if content is None else content)
    with pytest.raises(ModelError, match=r"layers\.npz holds no layers"):
        read_layers(file)
