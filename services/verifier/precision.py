"""How a graph's weights are stored: fp32, fp16 (computed in fp32), int8 or int4.

fp16 halves the files and nothing else: Cast nodes widen the weights, which onnxruntime folds once
when it loads the graph. int8 and int4 are blockwise weights of MatMulNBits, with activations in
int8 (accuracy level 4).
"""

from __future__ import annotations

import logging

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from shared.errors import ModelError

PRECISIONS = ("fp32", "fp16", "int8", "int4")
BLOCK_SIZE = 32
ACCURACY_LEVEL = 4
_STORED = "/stored_as_fp16"


def convert(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """The graph in another precision. Only fp32 and fp16 graphs can be converted."""
    if any(node.op_type == "MatMulNBits" for node in model.graph.node):
        raise ModelError("the model is quantized already; convert from fp32 or fp16")
    widen(model)
    if precision in ("int8", "int4"):
        model = _quantize(model, 8 if precision == "int8" else 4)
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
        if np.abs(array).max(initial=0) > np.finfo(np.float16).max:
            continue
        initializer.CopyFrom(numpy_helper.from_array(array.astype(np.float16), name + _STORED))
        casts.append(helper.make_node("Cast", [name + _STORED], [name], to=TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])


def _quantize(model: onnx.ModelProto, bits: int) -> onnx.ModelProto:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    # It logs every node it looks at.
    logging.getLogger(MatMulNBitsQuantizer.__module__).setLevel(logging.WARNING)
    quantizer = MatMulNBitsQuantizer(
        model,
        bits=bits,
        block_size=BLOCK_SIZE,
        is_symmetric=True,
        accuracy_level=ACCURACY_LEVEL,
    )
    quantizer.process()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized
