"""Finds out whether a quantized graph is nothing but layers in int8, one after the other.

Offline only: needs the onnx package.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from services.recommender.layers import Layer, Layers

Array = npt.NDArray[Any]
_USUAL = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}


class _OtherError(Exception):
    """The graph is something else."""


def read_chain(model: onnx.ModelProto) -> Layers | None:
    """The layers, of one input [rows, width] and one output [rows, scores]; None for any other
    graph."""
    try:
        layers = _Reader(model.graph).layers()
    except (_OtherError, ValueError, IndexError):
        return None
    return None if layers.problems() else layers


class _Reader:
    """Goes from the output back to the input."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._makers = {output: node for node in graph.node for output in node.output}
        self._constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}

    def layers(self) -> Layers:
        [output], [source] = self._graph.output, self._graph.input
        if len(source.type.tensor_type.shape.dim) != 2:
            raise _OtherError
        found: list[Layer] = []
        value = output.name
        while value != source.name:
            node = self._makers.get(value)
            # What becomes bytes of a zero point of 0 is cut off at 0 anyhow.
            if node is not None and node.op_type == "Relu" and found and not found[0].zero_point:
                value = node.input[0]
            layer, value = self._layer(value)
            found.insert(0, layer)
        return Layers(tuple(found))

    def _layer(self, value: str) -> tuple[Layer, str]:
        """The layer that ends in a value, and what it turns into bytes."""
        node = self._maker(value, "Gemm", "MatMul")
        if any(a.name not in _USUAL or onnx.helper.get_attribute_value(a) != _USUAL[a.name]
               for a in node.attribute):  # fmt: skip
            raise _OtherError
        reader = self._maker(node.input[0], "DequantizeLinear")
        writer = self._maker(reader.input[0], "QuantizeLinear")
        scale, zero_point = self._scale(reader, np.uint8)
        if [*writer.input[1:]] != [*reader.input[1:]] or scale.size != 1:
            raise _OtherError
        weights, weight_scales = self._constant(node.input[1], np.int8)
        num_outputs = weights.shape[1]
        if weight_scales.shape != (num_outputs,):
            raise _OtherError
        bias: Array = np.zeros(num_outputs, np.int32)
        if len(node.input) == 3:
            bias, bias_scales = self._constant(node.input[2], np.int32)
            if not np.array_equal(bias_scales, scale * weight_scales):
                raise _OtherError
        layer = Layer(np.float32(scale), int(zero_point), weights, weight_scales, bias)
        return layer, self._original(writer.input[0])

    def _original(self, value: str) -> str:
        """Of copies."""
        while (node := self._makers.get(value)) is not None and node.op_type == "Identity":
            value = node.input[0]
        return value

    def _constant(self, value: str, kind: type[np.generic]) -> tuple[Array, Array]:
        """Whole numbers, zero being zero, and the scales of their columns."""
        node = self._maker(value, "DequantizeLinear")
        scales, zero_points = self._scale(node, kind)
        if node.input[0] not in self._constants or zero_points.any():
            raise _OtherError
        numbers = self._constants[node.input[0]]
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        if numbers.dtype != kind or (scales.size > 1 and axis != numbers.ndim - 1):
            raise _OtherError
        return numbers, scales

    def _scale(self, node: onnx.NodeProto, kind: type[np.generic]) -> tuple[Array, Array]:
        """Of a node from or to bytes, and its zero point."""
        if len(node.input) != 3 or not {*node.input[1:]} <= self._constants.keys():
            raise _OtherError
        scale, zero_point = (self._constants[name] for name in node.input[1:])
        if scale.dtype != np.float32 or zero_point.dtype != kind:
            raise _OtherError
        return scale, zero_point

    def _maker(self, value: str, *kinds: str) -> onnx.NodeProto:
        node = self._makers.get(value)
        if node is None or node.op_type not in kinds:
            raise _OtherError
        return node
