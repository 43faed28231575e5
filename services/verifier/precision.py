"""How a graph's weights are stored: fp32, fp16 (computed in fp32), half, int8 or int4.

fp16 halves the files and nothing else: Cast nodes widen the weights, which onnxruntime folds once
when it loads the graph. int8 multiplies bytes: a scale for each column of the weights, and for
each token one that its own activations give, so that a token's logits still do not depend on its
company; sums of integers are exact in any order. int4 are blockwise weights of MatMulNBits, with
activations in int8 (accuracy level 4). half is for GPUs: weights, caches and arithmetic in fp16.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, MutableSequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from shared.errors import ModelError

PRECISIONS = ("fp32", "fp16", "half", "int8", "int4")
BLOCK_SIZE = 32
ACCURACY_LEVEL = 4
_STORED = "/stored_as_fp16"
_QUANTIZED = ("MatMulNBits", "MatMulIntegerToFloat")
_LARGEST = np.float32(np.finfo(np.float16).max)
_ZERO, _STEPS = 128, 127
"""Of an activation's byte: what stands for 0, and the steps to either side."""
_WEIGHT_STEPS = 64
"""The largest with which two products, 2 x 255 x 64, fit in 16 bits."""
_TINY = 1e-12


def convert(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """The graph in another precision. Only fp32 and fp16 graphs can be converted."""
    if any(node.op_type in _QUANTIZED for node in model.graph.node):
        raise ModelError("the model is quantized already; convert from fp32 or fp16")
    if any(i.elem_type == TensorProto.FLOAT16 for i in _tensors(model.graph.input)):
        raise ModelError("the model computes in fp16 already; convert from fp32 or fp16")
    widen(model)
    if precision == "half":
        _halve(model.graph)
        return model
    if precision == "int8":
        Bytes(model).run()
    if precision == "int4":
        model = _quantize(model)
    if precision != "fp32":
        _narrow(model)
    return model


def widen(model: onnx.ModelProto) -> None:
    """Undoes the fp16 storage: weights are fp32 initializers again."""
    graph = model.graph
    casts = {n.input[0]: n for n in graph.node if n.input and n.input[0].endswith(_STORED)}
    for initializer in graph.initializer:
        if initializer.name in casts:
            name = initializer.name.removesuffix(_STORED)
            array = numpy_helper.to_array(initializer).astype(np.float32)
            initializer.CopyFrom(numpy_helper.from_array(array, name))
    for cast in casts.values():
        graph.node.remove(cast)


def _narrow(model: onnx.ModelProto) -> None:
    """Stores fp32 matrices (also those that stay beside quantized ones) as fp16; scales and
    rotary tables, which are small and whose errors add up, stay as they are."""
    graph = model.graph
    exact = ("MatMulNBits", "RotaryEmbedding")
    kept = {name for n in graph.node if n.op_type in exact for name in n.input[1:]}
    casts = []
    for initializer in graph.initializer:
        is_matrix = initializer.data_type == TensorProto.FLOAT and len(initializer.dims) == 2
        if not is_matrix or initializer.name in kept:
            continue
        name = initializer.name
        array = numpy_helper.to_array(initializer)
        if np.abs(array).max(initial=0) > _LARGEST:
            continue
        initializer.CopyFrom(numpy_helper.from_array(array.astype(np.float16), name + _STORED))
        casts.append(helper.make_node("Cast", [name + _STORED], [name], to=TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])


def _halve(graph: onnx.GraphProto) -> None:
    """All numbers in 16 bits, but for the mask that comes in and the logits that go out."""
    for initializer in graph.initializer:
        if initializer.data_type == TensorProto.FLOAT:
            initializer.CopyFrom(_half(initializer))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(_half(attribute.t))
            if (node.op_type, attribute.name, attribute.i) == ("Cast", "to", TensorProto.FLOAT):
                attribute.i = TensorProto.FLOAT16
        _rename(node.input, "attention_bias", "attention_bias/half")
        _rename(node.output, "logits", "logits/half")
    for value in (*graph.input, *graph.output):
        if value.name.startswith(("past_key_values", "present")):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    graph.initializer.append(numpy_helper.from_array(np.array(-_LARGEST), "lowest"))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend(
        [
            helper.make_node("Max", ["attention_bias", "lowest"], ["attention_bias/finite"]),
            helper.make_node(
                "Cast", ["attention_bias/finite"], ["attention_bias/half"], to=TensorProto.FLOAT16
            ),
            *nodes,
            helper.make_node("Cast", ["logits/half"], ["logits"], to=TensorProto.FLOAT),
        ]
    )


def _half(tensor: onnx.TensorProto) -> onnx.TensorProto:
    array = np.clip(numpy_helper.to_array(tensor), -_LARGEST, _LARGEST)
    return numpy_helper.from_array(array.astype(np.float16), tensor.name)


def _rename(names: MutableSequence[str], old: str, new: str) -> None:
    for place, name in enumerate(names):
        if name == old:
            names[place] = new


def _tensors(values: Iterable[onnx.ValueInfoProto]) -> list[onnx.TypeProto.Tensor]:
    return [value.type.tensor_type for value in values]


def _quantize(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    # It logs every node it looks at.
    logging.getLogger(MatMulNBitsQuantizer.__module__).setLevel(logging.WARNING)
    quantizer = MatMulNBitsQuantizer(
        model,
        bits=4,
        block_size=BLOCK_SIZE,
        is_symmetric=True,
        accuracy_level=ACCURACY_LEVEL,
    )
    quantizer.process()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


class Bytes:
    """Rewrites each multiplication by a constant matrix as one of bytes.

    Of onnxruntime's kernels that for unsigned activations and signed weights is the fastest, but
    where the CPU has no VNNI it adds two products in 16 bits, which overflow. Weights of seven bits
    keep them within: exact everywhere, and the same everywhere.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._matrices = {i.name: i for i in model.graph.initializer}
        self._constants: dict[str, onnx.TensorProto] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._bytes: dict[str, tuple[str, str]] = {}

    def run(self) -> None:
        graph = self._model.graph
        for node in graph.node:
            if node.op_type == "MatMul" and node.input[1] in self._matrices:
                self._multiply(node.input[0], node.input[1], node.output[0])
            else:
                self._nodes.append(node)
        used = {name for node in self._nodes for name in node.input}
        kept = [i for i in graph.initializer if i.name in used]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend([*kept, *self._constants.values()])
        if all(opset.domain != "com.microsoft" for opset in self._model.opset_import):
            self._model.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    def _multiply(self, activations: str, matrix: str, product: str) -> None:
        weights = numpy_helper.to_array(self._matrices[matrix]).astype(np.float64)
        steps = np.abs(weights).max(axis=0) / _WEIGHT_STEPS
        steps[steps == 0] = 1.0
        stored = np.round(weights / steps).astype(np.int8)
        quantized, largest = self._quantize(activations)
        zeros = (
            self._constant("zero", np.array(_ZERO, np.uint8)),
            self._constant("weight_zero", np.array(0, np.int8)),
        )
        inputs = [
            quantized,
            self._constant(f"{matrix}/bytes", stored),
            self._constant("one", np.array(1, np.float32)),
            self._constant(f"{matrix}/steps", (steps / _STEPS).astype(np.float32)),
            *zeros,
        ]
        scaled = f"{product}/of_the_largest"
        self._nodes += [
            helper.make_node("MatMulIntegerToFloat", inputs, [scaled], domain="com.microsoft"),
            helper.make_node("Mul", [scaled, largest], [product]),
        ]

    def _quantize(self, activations: str) -> tuple[str, str]:
        """Bytes [..., K] and what they are multiples of, [..., 1] times 1 / 127."""
        if activations in self._bytes:
            return self._bytes[activations]
        steps = self._constant("steps", np.array(_STEPS, np.float32))
        # Conversion cuts off: half a step more makes it round.
        shift = self._constant("shift", np.array(_ZERO + 0.5, np.float32))
        tiny = self._constant("tiny", np.array(_TINY, np.float32))
        axis = self._constant("axis", np.array([-1], np.int64))
        name = f"{activations}/bytes"
        parts = [
            f"{name}/{part}" for part in ("abs", "max", "largest", "factor", "scaled", "shifted")
        ]
        absolute, most, largest, factor, scaled, shifted = parts
        self._nodes += [
            helper.make_node("Abs", [activations], [absolute]),
            helper.make_node("ReduceMax", [absolute, axis], [most], keepdims=1),
            helper.make_node("Max", [most, tiny], [largest]),
            helper.make_node("Div", [steps, largest], [factor]),
            helper.make_node("Mul", [activations, factor], [scaled]),
            helper.make_node("Add", [scaled, shift], [shifted]),
            helper.make_node("Cast", [shifted], [name], to=TensorProto.UINT8),
        ]
        self._bytes[activations] = (name, largest)
        return name, largest

    def _constant(self, name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        name = f"/bytes/{name}"
        self._constants.setdefault(name, numpy_helper.from_array(value, name))
        return name
