"""Splits the ONNX graph of a click-through model into index arithmetic, tables and a dense part.

As torch.onnx exports them, an nn.Embedding is a Gather from a constant matrix, and an
nn.EmbeddingBag a Loop over bags: the older exporter's slices the ids and gathers their rows, the
newer one's slices rows gathered before; both reduce them. What happens to ids before (a column
chosen, an offset added) stays a small graph of its own.

Offline only: needs the onnx package. Weights in external files need not be loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import onnx
from onnx import TensorProto, helper, numpy_helper

from services.recommender.layout import Pooling
from shared.errors import ModelError

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_REDUCTIONS: dict[str, Pooling] = {"ReduceSum": "sum", "ReduceMean": "mean"}


@dataclass(frozen=True, slots=True)
class Lookup:
    """Rows of a table for each item."""

    table: str
    """The initializer [num_rows, dim]."""
    indices: str
    """An output of the index graph: ids of any shape, or those of all bags in one line [N]."""
    bounds: str | None
    """Likewise: where each bag begins, and the last one ends [B + 1]; None without bags."""
    pooling: Pooling | None
    """Of a bag, or of the last axis of `indices`; None: a row for each id."""
    rows: str
    """The dense graph's input for what was looked up."""


@dataclass(frozen=True, slots=True)
class Split:
    """A model in three parts. `indices` takes the model's inputs and gives ids; `dense` takes
    rows, and those of the model's inputs that are no ids, and gives the model's outputs."""

    lookups: list[Lookup]
    indices: onnx.ModelProto
    dense: onnx.ModelProto


def split(model: onnx.ModelProto) -> Split:
    """Raises ModelError where there is nothing to look up, or something that this cannot."""
    return _Splitter(model).run()


@dataclass(frozen=True, slots=True)
class Bag:
    """A pooled lookup, and what its graph gathers for it alone."""

    lookup: Lookup
    gathered: str


class _Splitter:
    """The model, and what its names stand for."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        graph = model.graph
        self._tables = {
            i.name for i in graph.initializer if len(i.dims) == 2 and i.data_type in _FLOATS
        }
        self._constants = {i.name: i for i in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                self._constants[node.output[0]] = _attributes(node)["value"].t
        self._ranks = _ranks(model)
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in set(_reads(node)):
                self._readers.setdefault(name, []).append(node)

    def run(self) -> Split:
        bags = [bag for node in self._model.graph.node for bag in self._bags(node)]
        in_bags = {bag.gathered for bag in bags}
        found = [
            self._embedding(node)
            for node in self._model.graph.node
            if self._gathers(node) and node.output[0] not in in_bags
        ]
        found += [bag.lookup for bag in bags]
        if not found:
            raise ModelError(
                "the graph looks nothing up: no Gather along axis 0 of a constant matrix, nor an "
                "EmbeddingBag's Loop"
            )
        names = [name for lookup in found for name in (lookup.indices, lookup.bounds) if name]
        lookups = [
            replace(
                lookup,
                indices=_id_output(lookup.indices),
                bounds=_id_output(lookup.bounds) if lookup.bounds else None,
            )
            for lookup in found
        ]
        return Split(lookups, self._index_graph(names), self._dense_graph(found))

    def _gathers(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "Gather" or node.input[0] not in self._tables:
            return False
        axis = _attributes(node).get("axis")
        return axis is None or axis.i == 0

    def _embedding(self, node: onnx.NodeProto) -> Lookup:
        table, indices = node.input
        reader = self._only_reader(node.output[0])
        if reader is not None and reader.op_type in _REDUCTIONS and self._pools(reader, indices):
            return Lookup(table, indices, None, _REDUCTIONS[reader.op_type], reader.output[0])
        return Lookup(table, indices, None, None, node.output[0])

    def _pools(self, reduction: onnx.NodeProto, indices: str) -> bool:
        """Whether exactly the last axis of the ids goes, which is the last but one of their
        rows."""
        rank = self._ranks.get(indices)
        attributes = _attributes(reduction)
        keeps = attributes["keepdims"].i if "keepdims" in attributes else 1
        if rank is None or rank < 1 or keeps:
            return False
        axes = self._axes(reduction)
        return axes is not None and [axis % (rank + 1) for axis in axes] == [rank - 1]

    def _axes(self, reduction: onnx.NodeProto) -> list[int] | None:
        """An attribute before opset 13 or 18, a constant input from then on."""
        attributes = _attributes(reduction)
        if "axes" in attributes:
            return list(attributes["axes"].ints)
        if len(reduction.input) < 2 or reduction.input[1] not in self._constants:
            return None
        return [int(a) for a in numpy_helper.to_array(self._constants[reduction.input[1]]).ravel()]

    def _bags(self, loop: onnx.NodeProto) -> Iterator[Bag]:
        """What a Loop pools, if it is one that stands for an EmbeddingBag: row b is the reduction
        of the rows of ids bounds[b] to bounds[b + 1]."""
        if loop.op_type != "Loop":
            return
        inner = list(_inner(loop))
        made = {name: node for node in inner for name in node.output}
        cut_up = {n.input[0] for n in inner if n.op_type == "Slice"} - made.keys()
        for gather in (node for node in inner if self._gathers(node)):
            cut = made.get(gather.input[1])
            start = _through(made, cut.input[1]) if cut is not None else None
            if cut is None or cut.op_type != "Slice" or start is None or start.op_type != "Gather":
                raise _no_bag(gather)
            yield self._bag(inner, gather, cut.input[0], start.input[0], loop.output[-1])
        for name in sorted(cut_up):
            gathered = self._gathered(name)
            if gathered is None:
                continue
            bounds = sorted(cut_up - {name})
            readers = [self._only_reader(output) for output in loop.output]
            joined = [n for n in readers if n is not None and n.op_type == "ConcatFromSequence"]
            if len(bounds) != 1 or len(joined) != 1:
                raise _no_bag(gathered)
            indices = gathered.input[1]
            yield self._bag(inner, gathered, indices, bounds[0], joined[0].output[0])

    def _bag(
        self,
        inner: Sequence[onnx.NodeProto],
        gather: onnx.NodeProto,
        indices: str,
        bounds: str,
        rows: str,
    ) -> Bag:
        table = gather.input[0]
        kinds = {node.op_type for node in inner if node.op_type.startswith("Reduce")}
        weights = [node for node in inner if node.op_type == "Mul"]
        if weights or not kinds or not kinds <= set(_REDUCTIONS):
            how = "weights" if weights else " and ".join(sorted(kinds)) or "nothing"
            raise ModelError(
                f"the bags of table {table} are pooled by {how}; plain sums and means are supported"
            )
        # The last bag's mean is written as a sum and a quotient by the newer exporter.
        pooling: Pooling = "mean" if "ReduceMean" in kinds else "sum"
        return Bag(Lookup(table, indices, bounds, pooling, rows), gather.output[0])

    def _gathered(self, name: str) -> onnx.NodeProto | None:
        """The Gather from a table that a value is, perhaps multiplied by weights that are all 1."""
        node = self._makers.get(name)
        while node is not None and not self._gathers(node):
            is_weighted = node.op_type == "Mul"
            if node.op_type != "Identity" and not (is_weighted and self._is_one(node.input[1])):
                return None
            node = self._makers.get(node.input[0])
        return node

    def _is_one(self, name: str) -> bool:
        node = self._makers.get(name)
        while node is not None and node.op_type in ("Unsqueeze", "Expand", "Identity"):
            name = node.input[0]
            node = self._makers.get(name)
        constant = self._constants.get(name)
        return constant is not None and bool((numpy_helper.to_array(constant) == 1).all())

    def _only_reader(self, name: str) -> onnx.NodeProto | None:
        readers = self._readers.get(name, [])
        is_output = any(output.name == name for output in self._model.graph.output)
        return readers[0] if len(readers) == 1 and not is_output else None

    def _index_graph(self, names: Sequence[str]) -> onnx.ModelProto:
        unique = list(dict.fromkeys(names))
        int64 = TensorProto.INT64
        casts = [helper.make_node("Cast", [n], [_id_output(n)], to=int64) for n in unique]
        outputs = [helper.make_tensor_value_info(_id_output(n), int64, None) for n in unique]
        return _part(self._model, list(self._model.graph.input), outputs, casts)

    def _dense_graph(self, lookups: Sequence[Lookup]) -> onnx.ModelProto:
        graph = self._model.graph
        rows = [
            helper.make_tensor_value_info(lookup.rows, TensorProto.FLOAT, None)
            for lookup in lookups
        ]
        return _part(self._model, [*rows, *graph.input], list(graph.output), ())


def _no_bag(gather: onnx.NodeProto) -> ModelError:
    return ModelError(f"a Loop reads table {gather.input[0]} in a way that is no EmbeddingBag's")


def _id_output(name: str) -> str:
    return f"{name}/ids"


def _attributes(node: onnx.NodeProto) -> dict[str, onnx.AttributeProto]:
    return {attribute.name: attribute for attribute in node.attribute}


def _through(made: dict[str, onnx.NodeProto], name: str) -> onnx.NodeProto | None:
    """What made a value, behind the nodes that only give it a shape."""
    node = made.get(name)
    while node is not None and node.op_type in ("Unsqueeze", "Reshape", "Cast"):
        node = made.get(node.input[0])
    return node


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model)
    values = [*inferred.graph.input, *inferred.graph.value_info]
    return {v.name: len(v.type.tensor_type.shape.dim) for v in values if _has_shape(v)}


def _has_shape(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.HasField("shape"))


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node needs, those that its inner graphs take from outside among them."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from _reads(inner)
            yield from (output.name for output in attribute.g.output)


def _inner(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """All nodes of a node's inner graphs."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield inner
                yield from _inner(inner)


def _part(
    model: onnx.ModelProto,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    last: Sequence[onnx.NodeProto],
) -> onnx.ModelProto:
    """The nodes between these inputs and outputs, and `last` behind them, with what they need."""
    given = {value.name for value in inputs}
    needed = {output.name for output in outputs}
    for node in last:
        needed |= set(_reads(node))
    nodes: list[onnx.NodeProto] = []
    for node in reversed(model.graph.node):
        if (needed - given) & set(node.output):
            nodes.append(node)
            needed |= set(_reads(node))
    graph = helper.make_graph(
        [*reversed(nodes), *last],
        model.graph.name,
        [value for value in inputs if value.name in needed],
        outputs,
        [i for i in model.graph.initializer if i.name in needed - given],
    )
    part = helper.make_model(graph, opset_imports=model.opset_import, functions=model.functions)
    part.ir_version = model.ir_version
    return part
