"""Small models of the kind that is compiled, with random weights, and what one is by definition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from shared.lm.compact import Compact, Layer, Linear
from shared.lm.manifest import FORMAT, Manifest

FloatArray = npt.NDArray[np.floating]
CONTEXT = 70


@dataclass(frozen=True)
class Sizes:
    num_layers: int
    hidden: int
    num_kv_heads: int
    group: int
    head_size: int
    inner: int
    vocab_size: int
    is_tied: bool

    def manifest(self) -> Manifest:
        return Manifest(
            format=FORMAT,
            name="random",
            architecture="LlamaForCausalLM",
            precision="fp32",
            graph="in-place",
            num_layers=self.num_layers,
            num_heads=self.group * self.num_kv_heads,
            num_kv_heads=self.num_kv_heads,
            head_size=self.head_size,
            vocab_size=self.vocab_size,
            max_context=CONTEXT,
            eos_token_ids=[1],
            files={},
        )

    def compact(self, seed: int) -> Compact:
        rng = np.random.default_rng(seed)

        def linear(num_inputs: int, num_outputs: int) -> Linear:
            weights = rng.standard_normal((num_inputs, num_outputs), np.float32)
            return Linear.of(weights * np.float32(1.5 / np.sqrt(num_inputs)))

        def norm() -> npt.NDArray[np.float32]:
            return rng.uniform(0.5, 1.5, self.hidden).astype(np.float32)

        query, kv = (
            n * self.head_size for n in (self.group * self.num_kv_heads, self.num_kv_heads)
        )
        powers = np.arange(self.head_size // 2) / (self.head_size // 2)
        angles = np.arange(CONTEXT)[:, None] / 100**powers
        head = linear(self.hidden, self.vocab_size)
        return Compact(
            embedding=head if self.is_tied else linear(self.hidden, self.vocab_size),
            head=head,
            norm=norm(),
            cos=np.cos(angles).astype(np.float32),
            sin=np.sin(angles).astype(np.float32),
            epsilon=1e-5,
            scale=self.head_size**-0.5,
            layers=[
                Layer(
                    norm=norm(),
                    qkv=linear(self.hidden, query + 2 * kv),
                    out=linear(query, self.hidden),
                    mlp_norm=norm(),
                    gate_up=linear(self.hidden, 2 * self.inner),
                    down=linear(self.inner, self.hidden),
                )
                for _ in range(self.num_layers)
            ],
        )


SIZES = st.builds(
    Sizes,
    num_layers=st.integers(1, 3),
    hidden=st.sampled_from([16, 48, 80, 128]),
    num_kv_heads=st.integers(1, 3),
    group=st.integers(1, 6),
    head_size=st.sampled_from([32, 64]),
    inner=st.sampled_from([16, 112, 144]),
    vocab_size=st.integers(33, 200),
    is_tied=st.booleans(),
)
SOME = Sizes(2, 48, 2, 2, 32, 112, 150, is_tied=True)


def widened(linear: Linear) -> FloatArray:
    return linear.weights.astype(np.float64) * linear.scales


def logits(
    compact: Compact, manifest: Manifest, tokens: Sequence[int], *, has_dots: bool
) -> FloatArray:
    """Of all tokens of a text, [T, V]: the model's definition, in 64 bits. With `has_dots` what is
    multiplied is rounded to 127 steps of each row's largest."""

    def product(x: FloatArray, linear: Linear) -> FloatArray:
        if has_dots:
            steps = np.abs(x).max(axis=-1, keepdims=True) / 127
            x = np.rint(x / steps) * steps
        return x @ widened(linear)

    def normed(x: FloatArray, factors: FloatArray) -> FloatArray:
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + compact.epsilon) * factors

    def turned(heads: FloatArray) -> FloatArray:
        cos, sin = (table[: len(tokens), None] for table in (compact.cos, compact.sin))
        first, second = np.split(heads, 2, axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    group = manifest.num_heads // manifest.num_kv_heads
    ends = np.cumsum([manifest.num_heads, manifest.num_kv_heads])
    is_hidden = np.triu(np.ones((len(tokens), len(tokens)), bool), 1)
    x = widened(compact.embedding)[:, list(tokens)].T
    for layer in compact.layers:
        qkv = product(normed(x, layer.norm), layer.qkv)
        heads = qkv.reshape(len(tokens), -1, manifest.head_size)
        queries, keys, values = np.split(heads, ends, axis=1)
        queries, keys = turned(queries), turned(keys)
        keys, values = (np.repeat(part, group, axis=1) for part in (keys, values))
        scores = np.einsum("qhd,khd->hqk", queries, keys) * compact.scale
        scores[:, is_hidden] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", weights, values)
        x = x + product(mixed.reshape(len(tokens), -1), layer.out)
        gate, up = np.split(product(normed(x, layer.mlp_norm), layer.gate_up), 2, axis=-1)
        x = x + product(gate / (1 + np.exp(-gate)) * up, layer.down)
    return product(normed(x, compact.norm), compact.head)


def text(seed: int, length: int, vocab_size: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, vocab_size, length).tolist()
