"""Weights in bytes, read from a plain Llama's graph and from no other's."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from services.verifier.compact import compact, num_weights
from services.verifier.export import GRAPH_FILE, export
from services.verifier.precision import convert, widen
from shared.lm.compact import FILE_NAME, Linear, load_compact
from shared.lm.manifest import checksum, load_manifest
from tests.toy import write_toy

MODELS = Path(__file__).parent.parent.parent / "models"
SMALL = MODELS / "quorum-draft-small"


def graph() -> onnx.ModelProto:
    """Of the shipped model, in fp32."""
    model = onnx.load(SMALL / GRAPH_FILE)
    widen(model)
    return model


def weight(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(i for i in model.graph.initializer if i.name == name)


@pytest.mark.parametrize("name", ["quorum-draft-small", "quorum-draft-wide"])
def test_the_shipped_weights_are_those_of_their_graphs(name: str) -> None:
    found, shipped = compact(onnx.load(MODELS / name / GRAPH_FILE)), load_compact(MODELS / name)
    assert found is not None
    np.testing.assert_array_equal(found.head.weights, shipped.head.weights)
    assert shipped.embedding is shipped.head
    assert len(found.layers) == len(shipped.layers) == load_manifest(MODELS / name).num_layers
    for one, other in zip(found.layers, shipped.layers, strict=True):
        for part in ("qkv", "out", "gate_up", "down"):
            np.testing.assert_array_equal(getattr(one, part).weights, getattr(other, part).weights)
            np.testing.assert_array_equal(getattr(one, part).scales, getattr(other, part).scales)


def test_a_weight_is_off_by_half_a_step_at_most() -> None:
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal((40, 30)) * np.geomspace(1e-6, 1e3, 30)).astype(np.float32)
    weights[:, 7] = 0
    linear = Linear.of(weights)
    assert np.abs(linear.weights).max() == 127
    assert (np.abs(linear.weights * linear.scales - weights) <= 0.501 * linear.scales).all()


def test_queries_keys_and_values_may_be_apart_and_the_embedding_untied() -> None:
    model = graph()
    packed = weight(model, "model.layers.0.attn.qkv_proj.MatMul.weight")
    whole = numpy_helper.to_array(packed)
    model.graph.initializer.remove(packed)
    parts = np.split(whole, [128, 192], axis=1)
    for name, part in zip("qkv", parts, strict=True):
        title = f"model.layers.0.attn.{name}_proj.MatMul.weight"
        model.graph.initializer.append(numpy_helper.from_array(part, title))
    rows = np.random.default_rng(0).standard_normal((4096, 128), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(rows, "model.embed_tokens.weight"))
    found = compact(model)
    assert found is not None
    np.testing.assert_array_equal(found.layers[0].qkv.weights, Linear.of(whole).weights)
    np.testing.assert_array_equal(found.embedding.weights, Linear.of(rows.T).weights)


def test_no_other_graph_is_taken_for_a_llama(tmp_path: Path) -> None:
    assert compact(onnx.load(write_toy(tmp_path / "toy") / GRAPH_FILE)) is None
    for precision in ("half", "int8", "int4"):
        assert compact(convert(graph(), precision)) is None

    def changed(op_type: str, **attributes: float) -> onnx.ModelProto:
        model = graph()
        node = next(node for node in model.graph.node if node.op_type == op_type)
        kept = [a for a in node.attribute if a.name not in attributes]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.attribute.extend(helper.make_attribute(*each) for each in attributes.items())
        return model

    assert compact(changed("Attention")) is not None
    assert compact(changed("Attention", softcap=30.0)) is None
    assert compact(changed("RotaryEmbedding", interleaved=1)) is None
    assert compact(changed("RotaryEmbedding", rotary_embedding_dim=16)) is None
    biased = graph()
    bias = np.zeros(256, np.float32)
    biased.graph.initializer.append(numpy_helper.from_array(bias, "model.layers.0.attn.bias"))
    assert compact(biased) is None
    added = graph()
    added.graph.node.append(helper.make_node("Add", ["x", "y"], ["z"]))
    assert compact(added) is None
    lacking = graph()
    lacking.graph.initializer.remove(weight(lacking, "lm_head.MatMul.weight"))
    assert compact(lacking) is None


def test_the_graph_itself_is_left_as_it_was() -> None:
    model = onnx.load(SMALL / GRAPH_FILE)
    before = model.SerializeToString()
    assert compact(model) is not None
    assert model.SerializeToString() == before
    stored = {TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT64}
    assert {i.data_type for i in model.graph.initializer} == stored
    assert num_weights(model) == sum(numpy_helper.to_array(i).size for i in model.graph.initializer)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_export_reads_them_from_the_graph_as_it_is_stored(
    tmp_path: Path, precision: str
) -> None:
    """Not from what it was before its weights were shortened."""
    source = shutil.copytree(SMALL, tmp_path / "source")
    model = graph()
    own = weight(model, "model.layers.0.mlp.down_proj.MatMul.weight")
    longer = numpy_helper.to_array(own) * np.float32(1 + 1 / 3000)
    own.CopyFrom(numpy_helper.from_array(longer, own.name))
    onnx.save(model, source / GRAPH_FILE)
    sums = {name: checksum(source / name) for name in load_manifest(SMALL).files}
    replace(load_manifest(SMALL), files=sums).save(source)
    out = tmp_path / "out"
    export(str(source), out, precision)
    stored, found = compact(onnx.load(out / GRAPH_FILE)), load_compact(out)
    assert stored is not None
    assert (stored.layers[0].down.scales == found.layers[0].down.scales).all()
    assert (stored.layers[0].down.weights == found.layers[0].down.weights).all()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "half"])
def test_the_export_writes_them_beside_graphs_of_floats(tmp_path: Path, precision: str) -> None:
    manifest = export(str(SMALL), tmp_path / "out", precision)
    is_there = precision in ("fp32", "fp16")
    assert (tmp_path / "out" / FILE_NAME).is_file() == is_there
    assert (FILE_NAME in manifest.files) == is_there
