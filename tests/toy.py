"""A tiny decoder of our own graph, with random weights: the real interface, milliseconds a pass.

Its text is not degenerate: embeddings and head are random and sharp enough that the greedy token
depends on the context. A drafter is the target with noise on its weights, so that it agrees often
and not always.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from services.verifier.export import GRAPH_FILE
from services.verifier.graph import IR_VERSION, OPSET, rewrite
from services.verifier.precision import convert
from shared.lm.manifest import FORMAT, Manifest, checksum

VOCAB_SIZE, WIDTH, NUM_LAYERS, NUM_HEADS, HEAD_SIZE = 96, 64, 2, 4, 16
MAX_CONTEXT = 512
END = 1
"""The one end-of-text token."""


def write_toy(
    folder: Path,
    *,
    noise: float = 0.0,
    seed: int = 0,
    precision: str = "fp32",
    num_kv_heads: int = 2,
) -> Path:
    """Writes a decoder folder. `noise` perturbs the weights that `seed` gives."""
    folder.mkdir(parents=True)
    onnx.save(convert(_model(seed, noise, num_kv_heads), precision), folder / GRAPH_FILE)
    Manifest(
        format=FORMAT,
        name=folder.name,
        architecture="Toy",
        precision=precision,
        graph="in-place",
        num_layers=NUM_LAYERS,
        num_heads=NUM_HEADS,
        num_kv_heads=num_kv_heads,
        head_size=HEAD_SIZE,
        vocab_size=VOCAB_SIZE,
        max_context=MAX_CONTEXT,
        eos_token_ids=[END],
        files={GRAPH_FILE: checksum(folder / GRAPH_FILE)},
    ).save(folder)
    return folder


def write_toy_tokenizer(folder: Path) -> None:
    """Each token is a printable ASCII character, from ! on, behind two markers."""
    characters = [chr(code) for code in range(0x21, 0x7F)]
    vocabulary = {"<start>": 0, "<end>": END}
    vocabulary |= {character: number for number, character in enumerate(characters, 2)}
    assert len(vocabulary) == VOCAB_SIZE
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<start>", "<end>"])
    tokenizer.save(str(folder / "tokenizer.json"))


class _Builder:
    def __init__(self, seed: int, noise: float) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(seed)
        self._noise_rng = np.random.default_rng(seed + 1000)
        self._noise = noise

    def weight(self, name: str, *shape: int, scale: float = 1.0) -> str:
        value = self._rng.standard_normal(shape)
        value = value + self._noise * self._noise_rng.standard_normal(shape)
        value *= scale / np.sqrt(shape[0] if len(shape) > 1 else 1)
        return self.constant(name, value.astype(np.float32))

    def constant(self, name: str, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: object) -> str:
        output = output or f"out{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def attention(self, layer: int, qkv: list[str], others: list[str], num_kv_heads: int) -> str:
        """As onnxruntime-genai's builder writes it."""
        caches = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
        present = [name.replace("past_key_values", "present") for name in caches]
        attended = f"attended{layer}"
        self.nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                [*qkv, *caches, *others],
                [attended, *present],
                domain="com.microsoft",
                num_heads=NUM_HEADS,
                kv_num_heads=num_kv_heads,
                do_rotary=1,
                scale=HEAD_SIZE**-0.5,
            )
        )
        return attended

    def norm(self, x: str, name: str) -> str:
        return self.add(
            "RMSNormalization", x, self.constant(name, np.ones(WIDTH, np.float32)), axis=-1
        )


def _model(seed: int, noise: float, num_kv_heads: int) -> onnx.ModelProto:
    b = _Builder(seed, noise)
    angles = np.arange(MAX_CONTEXT)[:, None] / 100 ** (np.arange(HEAD_SIZE // 2) * 2 / HEAD_SIZE)
    cos = b.constant("cos", np.cos(angles).astype(np.float32))
    sin = b.constant("sin", np.sin(angles).astype(np.float32))
    x = b.add("Gather", b.weight("embedding", VOCAB_SIZE, WIDTH, scale=10.0), "input_ids")
    caches = []
    for i in range(NUM_LAYERS):
        caches += [f"past_key_values.{i}.key", f"past_key_values.{i}.value"]
        n = b.norm(x, f"norm{i}")
        sizes = {"q": NUM_HEADS, "k": num_kv_heads, "v": num_kv_heads}
        qkv = [
            b.add("MatMul", n, b.weight(f"{p}{i}", WIDTH, heads * HEAD_SIZE, scale=1.5))
            for p, heads in sizes.items()
        ]
        a = b.attention(i, qkv, ["lengths", "longest", cos, sin], num_kv_heads)
        x = b.add("Add", x, b.add("MatMul", a, b.weight(f"o{i}", NUM_HEADS * HEAD_SIZE, WIDTH)))
        h = b.add("MatMul", b.norm(x, f"mlp_norm{i}"), b.weight(f"up{i}", WIDTH, 128, scale=1.5))
        h = b.add("Mul", h, b.add("Sigmoid", h))
        x = b.add("Add", x, b.add("MatMul", h, b.weight(f"down{i}", 128, WIDTH, scale=1.5)))
    head = b.weight("head", WIDTH, VOCAB_SIZE, scale=3.0)
    b.add("MatMul", b.norm(x, "final"), head, output="logits", name="/lm_head/MatMul")
    info, int64, float32 = helper.make_tensor_value_info, TensorProto.INT64, TensorProto.FLOAT
    cache = ["rows", num_kv_heads, "cache", HEAD_SIZE]
    inputs = [
        info("input_ids", int64, [1, "tokens"]),
        *(info(name, float32, cache) for name in caches),
    ]
    outputs = [
        info("logits", float32, [1, "tokens", VOCAB_SIZE]),
        *(info(name.replace("past_key_values", "present"), float32, cache) for name in caches),
    ]
    graph = helper.make_graph(b.nodes, "toy", inputs, outputs, b.weights)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    rewrite(model, HEAD_SIZE, [None] * NUM_LAYERS)
    return model
