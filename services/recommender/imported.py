"""A click-through model as one ONNX graph, taken apart for restructuring.

Offline only: needs the onnx package.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from services.recommender.layout import Field, Output, Table, Tensor
from services.recommender.layout import Lookup as Placed
from services.recommender.source import Array, Source
from services.recommender.split import Lookup, Split, split
from shared.errors import ModelError

_DTYPES: dict[int, Literal["int64", "float32"]] = {
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int64",
    TensorProto.FLOAT: "float32",
}
_MAPPED = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}
Shape = list[int]


def read_graph(path: Path) -> Source:
    """Raises ModelError for what is no such graph."""
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors have no common base
        raise ModelError(f"{path} is no ONNX graph: {error}") from error
    parts = split(model)
    weights = {i.name: i for i in model.graph.initializer}
    arrays = {x.table: _array(path, weights[x.table]) for x in parts.lookups}
    through = _passed_through(parts.indices)
    shapes = _shapes(parts.indices)
    fields: dict[tuple[object, ...], Field] = {}
    lookups: list[Placed] = []
    outputs: list[Output] = []
    for lookup in parts.lookups:
        array = arrays[lookup.table]
        way = (lookup.indices, lookup.bounds, lookup.pooling, len(array))
        if way not in fields:
            names = {field.name for field in fields.values()}
            fields[way] = _field(lookup, shapes, len(array), through, names)
        field, dim = fields[way], array.shape[1]
        is_list = lookup.pooling is None and len(shapes[lookup.indices]) == 2
        shape = [field.length or 1, dim] if is_list else [dim]
        lookups.append(Placed(field.name, lookup.table, lookup.pooling, len(outputs), 0))
        outputs.append(Output(lookup.rows, int(np.prod(shape)), shape))
    _declare(parts.dense, outputs)
    dense = _loaded(path, parts.dense)
    rows = {output.name for output in outputs}
    others = [_tensor(v) for v in parts.dense.graph.input if v.name not in rows]
    if wrong := [tensor.name for tensor in others if tensor.dtype != "float32"]:
        raise ModelError(f"{path}: ids {', '.join(wrong)} are used as numbers, too")
    given = [] if through else [_tensor(value) for value in parts.indices.graph.input]
    lines = _in_one_line(parts)
    numbers = [replace(tensor, is_per_item=tensor.name not in lines) for tensor in given]
    known = {tensor.name for tensor in numbers}
    return Source(
        list(fields.values()),
        [Table(name, *array.shape) for name, array in arrays.items()],
        lookups,
        outputs,
        [*numbers, *(tensor for tensor in others if tensor.name not in known)],
        arrays,
        dense,
        None if through else _loaded(path, parts.indices),
    )


def _field(
    lookup: Lookup,
    shapes: Mapping[str, Shape],
    num_rows: int,
    through: Mapping[str, str],
    names: Container[str],
) -> Field:
    """Ids of one tensor that are read in one way and are rows of as many."""
    shape = shapes[lookup.indices]
    ids = through.get(lookup.indices, lookup.indices)
    if lookup.bounds is not None:
        length = None
    elif len(shape) == 1 and lookup.pooling is None:
        length = 1
    elif len(shape) == 2 and (lookup.pooling is not None or shape[1] > 0):
        length = shape[1] if shape[1] > 0 else None
    else:
        raise ModelError(
            f"table {lookup.table} is looked up by {ids}, of shape {shape}; supported are one id "
            "an item, a fixed number, and bags"
        )
    name = ids.removesuffix("/ids")
    if name in names:
        name = f"{name}/{lookup.pooling or 'each'}/{num_rows}"
    return Field(name, "item", num_rows, length, "reject", ids=ids, bounds=lookup.bounds)


def _declare(dense: onnx.ModelProto, outputs: Sequence[Output]) -> None:
    """Gives the inputs that lookups fill their shapes."""
    shapes = {output.name: output.shape for output in outputs}
    for number, value in enumerate(dense.graph.input):
        if value.name in shapes:
            kind = value.type.tensor_type.elem_type
            shaped = helper.make_tensor_value_info(value.name, kind, ["rows", *shapes[value.name]])
            dense.graph.input[number].CopyFrom(shaped)


def _passed_through(indices: onnx.ModelProto) -> dict[str, str]:
    """For each output the input that it is, if the graph does nothing else."""
    nodes = {node.output[0]: node for node in indices.graph.node}
    inputs = {value.name for value in indices.graph.input}
    found = {}
    for output in indices.graph.output:
        name = output.name
        while name in nodes and nodes[name].op_type in ("Cast", "Identity"):
            name = nodes[name].input[0]
        if name not in inputs:
            return {}
        found[output.name] = name
    return found


def _in_one_line(parts: Split) -> set[str]:
    """Inputs whose ids are those of bags which another input bounds."""
    found: set[str] = set()
    for lookup in parts.lookups:
        if lookup.bounds is not None:
            ids = _upstream(parts.indices, lookup.indices)
            if _upstream(parts.indices, lookup.bounds) - ids:
                found |= ids
    return found


def _upstream(model: onnx.ModelProto, name: str) -> set[str]:
    """Inputs that a value depends on."""
    makers = {output: node for node in model.graph.node for output in node.output}
    inputs = {value.name for value in model.graph.input}
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += makers[name].input if name in makers else []
    return seen & inputs


def _shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """Of the outputs, as far as they can be known: -1 where not."""
    inferred = onnx.shape_inference.infer_shapes(model)
    return {value.name: _shape(value) for value in inferred.graph.output}


def _shape(value: onnx.ValueInfoProto) -> Shape:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims]


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type.elem_type
    if kind not in _DTYPES:
        raise ModelError(f"input {value.name} is {TensorProto.DataType.Name(kind)}; supported are "
                         "int64, int32 and float")  # fmt: skip
    return Tensor(value.name, _DTYPES[kind], _shape(value)[1:])


def _array(path: Path, weight: onnx.TensorProto) -> Array:
    """Mapped where it lies in a file of its own."""
    if weight.data_type not in _MAPPED:
        raise ModelError(f"table {weight.name} of {path} is neither float32 nor float16")
    if not external_data_helper.uses_external_data(weight):
        array: Array = numpy_helper.to_array(weight)
        return array
    place = external_data_helper.ExternalDataInfo(weight)
    file = path.parent / place.location
    if file.resolve().parent != path.parent.resolve():
        raise ModelError(f"table {weight.name} of {path} is in {place.location}, not beside it")
    dtype = np.dtype(_MAPPED[weight.data_type])
    offset = place.offset or 0
    if not file.is_file() or file.stat().st_size < offset + np.prod(weight.dims) * dtype.itemsize:
        raise ModelError(f"table {weight.name} of {path}: {file} is missing or cut off")
    return np.memmap(file, dtype, "r", offset, tuple(weight.dims))


def _loaded(path: Path, model: onnx.ModelProto) -> bytes:
    """The graph, with the weights that are in files of their own."""
    for weight in model.graph.initializer:
        if external_data_helper.uses_external_data(weight):
            external_data_helper.load_external_data_for_tensor(weight, str(path.parent))
            weight.ClearField("external_data")
            weight.data_location = TensorProto.DEFAULT
    content: bytes = model.SerializeToString()
    return content
