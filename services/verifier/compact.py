"""The weights of an exported graph in bytes, where it is a plain Llama (shared/lm/compact.py)."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from services.verifier.precision import widen
from shared.lm.compact import Compact, Layer, Linear

FloatArray = npt.NDArray[np.float32]
_KINDS = {
    "Attention", "Concat", "Gather", "MatMul", "Mul", "Reshape", "RotaryEmbedding", "Sigmoid",
    "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization", "Split", "Squeeze",
    "TensorScatter", "Transpose",
}  # fmt: skip
"""Nodes that a plain Llama consists of."""
_PLAIN_ATTENTION = {"scale"}
_ROTARY_TABLES = "cos_cache", "sin_cache"


def num_weights(model: onnx.ModelProto) -> int:
    """All numbers of a graph."""
    return sum(prod(initializer.dims) for initializer in model.graph.initializer)


def compact(model: onnx.ModelProto) -> Compact | None:
    """The weights; None for a graph of another kind, or whose weights are bytes already."""
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    widen(graph)
    nodes = list(graph.graph.node)
    if not {node.op_type for node in nodes} <= _KINDS or not all(map(_is_plain, nodes)):
        return None
    weights = {
        i.name.removeprefix("model.").replace(".MatMul.weight", ".weight"): numpy_helper.to_array(i)
        for i in graph.graph.initializer
        if i.data_type == onnx.TensorProto.FLOAT
    }
    scales = {_attribute(node, "scale") for node in nodes if node.op_type == "Attention"}
    epsilons = {
        _attribute(node, "epsilon")
        for node in nodes
        if node.op_type in ("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")
    }
    if len(scales) != 1 or len(epsilons) != 1:
        return None
    try:
        found = _read(weights, float(epsilons.pop()), float(scales.pop()))
    except KeyError:
        return None
    # What is left over would be a bias, or whatever else a plain Llama lacks.
    return None if weights else found


def _read(weights: dict[str, FloatArray], epsilon: float, scale: float) -> Compact:
    """Takes all that a Llama has. Raises KeyError."""
    head = Linear.of(weights.pop("lm_head.weight"))
    embedding = weights.pop("embed_tokens.weight", None)
    cos, sin = (weights.pop(name) for name in _ROTARY_TABLES)
    layers = list(_layers(weights))
    norm = weights.pop(f"layers.{len(layers)}.final_norm_layernorm.weight")
    return Compact(
        embedding=head if embedding is None else Linear.of(embedding.T),
        head=head,
        norm=norm,
        cos=cos,
        sin=sin,
        epsilon=epsilon,
        scale=scale,
        layers=layers,
    )


def _layers(weights: dict[str, FloatArray]) -> Iterator[Layer]:
    number = 0
    while f"layers.{number}.input_layernorm.weight" in weights:
        name, number = f"layers.{number}", number + 1
        yield Layer(
            norm=weights.pop(f"{name}.input_layernorm.weight"),
            qkv=Linear.of(_joined(weights, f"{name}.attn.qkv_proj", f"{name}.attn", "qkv")),
            out=Linear.of(weights.pop(f"{name}.attn.o_proj.weight")),
            mlp_norm=weights.pop(f"{name}.post_attention_layernorm.weight"),
            gate_up=Linear.of(
                np.concatenate(
                    [weights.pop(f"{name}.mlp.{part}_proj.weight") for part in ("gate", "up")],
                    axis=1,
                )
            ),
            down=Linear.of(weights.pop(f"{name}.mlp.down_proj.weight")),
        )


def _joined(weights: dict[str, FloatArray], name: str, apart: str, parts: str) -> FloatArray:
    """Queries, keys and values in one, as the builder has them for most models."""
    if f"{name}.weight" in weights:
        return weights.pop(f"{name}.weight")
    return np.concatenate([weights.pop(f"{apart}.{part}_proj.weight") for part in parts], axis=1)


def _is_plain(node: onnx.NodeProto) -> bool:
    """Whether its attributes are those of a Llama."""
    names = {a.name for a in node.attribute}
    if node.op_type == "Attention":
        return names <= _PLAIN_ATTENTION
    if node.op_type == "RotaryEmbedding":
        return not _attribute(node, "interleaved") and not _attribute(node, "rotary_embedding_dim")
    return True


def _attribute(node: onnx.NodeProto, name: str) -> float:
    found = (helper.get_attribute_value(a) for a in node.attribute if a.name == name)
    return float(next(found, 0.0))
