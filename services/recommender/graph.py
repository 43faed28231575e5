"""Writes the dense part of a ranking model as ONNX: an MLP, with dot products of fields if asked.

Offline only: needs the onnx package. Serving reads whatever graph has this input and output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

FloatArray = npt.NDArray[np.float32]
OPSET = 17
IR_VERSION = 8


@dataclass(frozen=True, slots=True)
class Layer:
    """weight [inputs, outputs], bias [outputs]; ReLU follows each layer but the last."""

    weight: FloatArray
    bias: FloatArray


@dataclass(frozen=True, slots=True)
class Dots:
    """Of each context field's vector with each candidate field's, all of one `dim`; appended to
    the features, candidate by candidate, as the first layer's last inputs (after DLRM)."""

    num_context_fields: int
    num_candidate_fields: int
    dim: int


def write_graph(file: Path, num_features: int, layers: Sequence[Layer], dots: Dots | None) -> None:
    """`features` float32 [rows, num_features] to `score` [rows, 1]."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    current = "features"
    if dots is not None:
        current = _append_dots(dots, nodes, constants)
    for number, layer in enumerate(layers):
        is_last = number == len(layers) - 1
        output = "score" if is_last else f"linear{number}"
        names = [f"weight{number}", f"bias{number}"]
        for name, value in zip(names, (layer.weight, layer.bias), strict=True):
            constants.append(numpy_helper.from_array(value, name))
        nodes.append(helper.make_node("Gemm", [current, *names], [output]))
        if not is_last:
            nodes.append(helper.make_node("Relu", [output], [f"hidden{number}"]))
        current = f"hidden{number}"
    info, kind = helper.make_tensor_value_info, TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "dense",
        [info("features", kind, ["rows", num_features])],
        [info("score", kind, ["rows", 1])],
        constants,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.checker.check_model(model)
    onnx.save(model, file)


def _append_dots(dots: Dots, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> str:
    """Features and dot products side by side; the name of the result."""
    split = dots.num_context_fields * dots.dim
    num_dots = dots.num_context_fields * dots.num_candidate_fields
    shapes = {
        "sizes": [split, dots.num_candidate_fields * dots.dim],
        "context_shape": [0, dots.num_context_fields, dots.dim],
        "candidate_shape": [0, dots.num_candidate_fields, dots.dim],
        "dots_shape": [0, num_dots],
    }
    for name, shape in shapes.items():
        constants.append(numpy_helper.from_array(np.array(shape, np.int64), name))
    steps: list[tuple[str, list[str], list[str], dict[str, int | list[int]]]] = [
        ("Split", ["features", "sizes"], ["context", "candidate"], {"axis": 1}),
        ("Reshape", ["context", "context_shape"], ["context_fields"], {}),
        ("Reshape", ["candidate", "candidate_shape"], ["candidate_fields"], {}),
        ("Transpose", ["context_fields"], ["transposed"], {"perm": [0, 2, 1]}),
        ("MatMul", ["candidate_fields", "transposed"], ["products"], {}),
        ("Reshape", ["products", "dots_shape"], ["dots"], {}),
        ("Concat", ["features", "dots"], ["with_dots"], {"axis": 1}),
    ]
    for kind, inputs, outputs, attributes in steps:
        nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
    return "with_dots"
