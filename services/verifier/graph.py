"""From the graph that onnxruntime-genai's builder writes to ours (ARCHITECTURE.md, "The decoder
graph"): ragged batches, KV cache updated in place, logits for chosen positions only.

Each GroupQueryAttention becomes RotaryEmbedding, TensorScatter and Attention of opset 24. Only they
see the batch as rows, padded to the longest; all else works on the tokens of all rows in one flat
line, so that a pass costs what its tokens cost. The query heads that share a key-value head are
rows of one multiplication, so that even a single token is several of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from shared.errors import ModelError

OPSET, IR_VERSION = 24, 11
MASKED = -1e9


def rewrite(model: onnx.ModelProto, head_size: int, windows: Sequence[int | None]) -> None:
    """Rewrites in place. `windows` has a sliding window in tokens, or None, for each layer.
    Raises ModelError for a graph that is not of the expected kind."""
    Rewriter(model, head_size).run(windows)


class Rewriter:
    """The state of one rewrite: nodes and constants as they are added."""

    def __init__(self, model: onnx.ModelProto, head_size: int) -> None:
        self._model = model
        self._graph = model.graph
        self._head_size = head_size
        self._nodes: list[onnx.NodeProto] = []
        self._biases: dict[int, str] = {}
        self._repeats: dict[str, str] = {}

    def run(self, windows: Sequence[int | None]) -> None:
        attentions = [n for n in self._graph.node if n.op_type == "GroupQueryAttention"]
        if len(attentions) != len(windows):
            raise ModelError(
                f"the builder wrote {len(attentions)} GroupQueryAttention nodes for "
                f"{len(windows)} layers; this architecture is not supported"
            )
        self._declare_inputs()
        layers = iter(windows)
        for node in self._graph.node:
            if node.op_type == "GroupQueryAttention":
                self._attention(node, next(layers))
            else:
                self._nodes.append(node)
        self._choose_logits()
        self._drop_unused()
        del self._graph.value_info[:]
        for opset in self._model.opset_import:
            if opset.domain == "":
                opset.version = OPSET
        self._model.ir_version = IR_VERSION

    def _declare_inputs(self) -> None:
        kept = [i for i in self._graph.input if i.name.startswith(("input_ids", "past_key_values"))]
        del self._graph.input[:]
        self._graph.input.extend(kept)
        int64, float32 = TensorProto.INT64, TensorProto.FLOAT
        declared = (
            ("padded_indices", int64, ["rows", "width"]),
            ("flat_indices", int64, ["tokens"]),
            ("position_ids", int64, ["rows", "width"]),
            ("write_indices", int64, ["rows"]),
            ("attention_bias", float32, ["rows", 1, "width", "cache"]),
            ("logit_indices", int64, ["logits"]),
        )
        self._graph.input.extend(
            helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in declared
        )
        for value in (*self._graph.input, *self._graph.output):
            if value.name.startswith(("past_key_values", "present")):
                dims = value.type.tensor_type.shape.dim
                dims[0].dim_param, dims[2].dim_param = "rows", "cache"
                dims[3].dim_value = self._head_size
            if value.name == "input_ids":
                value.type.CopyFrom(helper.make_tensor_type_proto(int64, [1, "tokens"]))

    def _attention(self, node: onnx.NodeProto, window: int | None) -> None:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        num_heads, num_kv_heads = attributes["num_heads"], attributes["kv_num_heads"]
        query, key, value = self._heads(node, num_heads, num_kv_heads, attributes)
        past_key, past_value = node.input[3], node.input[4]
        attended, present_key, present_value = node.output[:3]
        self._scatter(past_key, key, present_key)
        self._scatter(past_value, value, present_value)
        options: dict[str, float] = {"scale": attributes["scale"]}
        if attributes.get("softcap", 0.0) > 0.0:
            options["softcap"] = attributes["softcap"]
        shared = self._ints("shared", [0, num_kv_heads, -1, 0])
        queries = self._add("Reshape", [query, shared])
        bias = self._repeated(self._bias(window), num_heads // num_kv_heads)
        mixed = self._add("Attention", [queries, present_key, present_value, bias], **options)
        self._flatten(mixed, num_heads, attended)

    def _heads(
        self,
        node: onnx.NodeProto,
        num_heads: int,
        num_kv_heads: int,
        attributes: Mapping[str, Any],
    ) -> tuple[str, str, str]:
        """Query, key and value [B, heads, T, head size], turned by their positions. They come
        packed in one flat input, or as three."""
        packed = node.input[0]
        if node.input[1]:
            packed = self._add("Concat", node.input[:3], axis=-1)
        tokens = self._add("Squeeze", [packed, self._ints("only", [0])])
        # What pads a short row is some token's.
        rows = self._add("Gather", [tokens, "padded_indices"], axis=0)
        split = self._add("Reshape", [rows, self._ints("heads", [0, 0, -1, self._head_size])])
        heads = self._add("Transpose", [split], perm=[0, 2, 1, 3])
        turned, value = self._split(heads, num_heads + num_kv_heads, num_kv_heads)
        if attributes.get("do_rotary"):
            interleaved = attributes.get("rotary_interleaved", 0)
            turned = self._rotate(node, turned, interleaved)
        query, key = self._split(turned, num_heads, num_kv_heads)
        return query, key, value

    def _split(self, heads: str, first: int, second: int) -> tuple[str, str]:
        outputs = [f"{heads}/first", f"{heads}/second"]
        sizes = self._ints("split", [first, second])
        self._nodes.append(helper.make_node("Split", [heads, sizes], outputs, axis=1))
        return outputs[0], outputs[1]

    def _rotate(self, node: onnx.NodeProto, heads: str, interleaved: int) -> str:
        cos, sin = node.input[7], node.input[8]
        cache = next((i for i in self._graph.initializer if i.name == cos), None)
        if cache is None:
            raise ModelError(f"{node.name}: rotary tables that depend on the length (longrope)")
        rotary_size = 2 * cache.dims[1]
        return self._add(
            "RotaryEmbedding",
            [heads, cos, sin, "position_ids"],
            interleaved=interleaved,
            rotary_embedding_dim=rotary_size if rotary_size < self._head_size else 0,
        )

    def _scatter(self, past: str, new: str, present: str) -> None:
        self._nodes.append(
            helper.make_node("TensorScatter", [past, new, "write_indices"], [present], axis=2)
        )

    def _flatten(self, mixed: str, num_heads: int, attended: str) -> None:
        """[B, KV heads, T of each query head, head size] to the flat line [1, N, heads x size]."""
        size = num_heads * self._head_size
        apart = self._ints("apart", [0, num_heads, -1, 0])
        heads = self._add("Reshape", [mixed, apart])
        transposed = self._add("Transpose", [heads], perm=[0, 2, 1, 3])
        places = self._add("Reshape", [transposed, self._ints("places", [-1, size])])
        flat = self._add("Gather", [places, "flat_indices"], axis=0)
        line = self._ints("line", [1, -1, size])
        self._nodes.append(helper.make_node("Reshape", [flat, line], [attended]))

    def _bias(self, window: int | None) -> str:
        """The mask, narrowed to a sliding window where there is one."""
        if window is None:
            return "attention_bias"
        if window not in self._biases:
            self._biases[window] = self._windowed(window)
        return self._biases[window]

    def _repeated(self, bias: str, group: int) -> str:
        """The mask for all queries of a key-value head: T for each of its query heads."""
        if group > 1 and bias not in self._repeats:
            self._repeats[bias] = self._add("Concat", [bias] * group, axis=2)
        return self._repeats.get(bias, bias)

    def _windowed(self, window: int) -> str:
        """A token sees a key less than `window` positions back."""
        shape = self._add("Shape", ["attention_bias"], start=3, end=4)
        size = self._add("Squeeze", [shape])
        keys = self._add("Range", [self._int("zero", 0), size, self._int("unit", 1)])
        positions = self._add("Unsqueeze", ["position_ids", self._ints("outer", [1, 3])])
        distance = self._add("Sub", [positions, keys])
        is_far = self._add("GreaterOrEqual", [distance, self._int(f"window_{window}", window)])
        masked = self._float("masked", MASKED)
        return self._add("Where", [is_far, masked, "attention_bias"])

    def _choose_logits(self) -> None:
        """The LM head works on the wanted positions only: [N, hidden] to [N, V]."""
        head = next((n for n in self._nodes if n.name.startswith("/lm_head/MatMul")), None)
        if head is None:
            raise ModelError("the builder's graph has no LM head at /lm_head/MatMul")
        place = self._nodes.index(head)
        after, self._nodes = self._nodes[place:], self._nodes[:place]
        size = self._graph_dimension(head)
        flat = self._add("Reshape", [head.input[0], self._ints("flat", [-1, size])])
        head.input[0] = self._add("Gather", [flat, "logit_indices"], axis=0)
        self._nodes += after
        (logits,) = (o for o in self._graph.output if o.name == "logits")
        vocab_size = logits.type.tensor_type.shape.dim[-1].dim_value
        logits.type.CopyFrom(
            helper.make_tensor_type_proto(TensorProto.FLOAT, ["logits", vocab_size])
        )

    def _graph_dimension(self, head: onnx.NodeProto) -> int:
        weight = next(i for i in self._graph.initializer if i.name == head.input[1])
        return int(weight.dims[0])

    def _drop_unused(self) -> None:
        """Removes what nothing needs any more, such as the builder's mask arithmetic."""
        needed = {o.name for o in self._graph.output}
        kept: list[onnx.NodeProto] = []
        for node in reversed(self._nodes):
            if needed & set(node.output):
                kept.append(node)
                needed |= set(node.input)
        del self._graph.node[:]
        self._graph.node.extend(reversed(kept))
        for initializer in [i for i in self._graph.initializer if i.name not in needed]:
            self._graph.initializer.remove(initializer)

    def _add(self, kind: str, inputs: Sequence[str], **attributes: object) -> str:
        """Appends a node; its one output's name."""
        name = f"/quorum/{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def _ints(self, name: str, values: Sequence[int]) -> str:
        return self._constant(f"{name}_{'_'.join(map(str, values))}", np.array(values, np.int64))

    def _int(self, name: str, value: int) -> str:
        return self._constant(name, np.array(value, np.int64))

    def _float(self, name: str, value: float) -> str:
        return self._constant(f"{name}_{value}", np.array(value, np.float32))

    def _constant(self, name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        name = f"/quorum/{name}"
        if all(i.name != name for i in self._graph.initializer):
            self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name
