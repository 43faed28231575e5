"""python -m benchmarks.grow SOURCE OUT --size 110m: a model that costs what a larger one costs.

A function-preserving expansion: SOURCE, an exported Llama of this project, is written as a Hugging
Face folder with a wider hidden state, more heads, a wider MLP and more blocks, all of which add
next to nothing to what the model computes. Text and acceptance stay those of the trained model,
while a pass costs what one of the larger size costs. Such figures are to be called cost-faithful.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

from services.verifier.precision import widen
from shared.lm.manifest import load_manifest

Array = npt.NDArray[np.float32]
Weights = dict[str, Array]
Config = dict[str, object]

NULL = 1e-7
"""Spread of weights that shall add nothing. Not zero: some engines leave out what is all zero."""
SPREAD = 0.02
"""Of weights whose outcome goes through null ones."""
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True)
class Size:
    """Dimensions of a Llama; heads are as many as fill the hidden state."""

    hidden: int
    mlp: int
    layers: int


SIZES = {
    "110m": Size(768, 3072, 12),
    "700m": Size(1536, 6144, 20),
    "1b": Size(2048, 8192, 16),
    "7b": Size(4096, 11008, 32),
}


def grow(config: Config, weights: Mapping[str, Array], size: Size) -> tuple[Config, Weights]:
    """Configuration and weights, in Hugging Face's names, of the larger model. It must be larger
    in every dimension, and a multiple of the key-value heads' share."""
    grower = _Grower(config, weights, size)
    return grower.config(), grower.weights()


class _Grower:
    def __init__(self, config: Config, weights: Mapping[str, Array], size: Size) -> None:
        self._old, self._given, self._size = config, weights, size
        self._random = np.random.default_rng(0)
        self._head = int(str(config["head_dim"]))
        self._hidden = int(str(config["hidden_size"]))
        self._ratio = self._number("num_attention_heads") // self._number("num_key_value_heads")
        self._num_heads = size.hidden // self._head
        self._shrink = np.float32((self._hidden / size.hidden) ** 0.5)

    def config(self) -> Config:
        # The mean square is taken over more values, of which the added ones are nothing.
        eps = float(str(self._old["rms_norm_eps"])) * self._hidden / self._size.hidden
        return self._old | {
            "hidden_size": self._size.hidden,
            "intermediate_size": self._size.mlp,
            "num_hidden_layers": self._size.layers,
            "num_attention_heads": self._num_heads,
            "num_key_value_heads": self._num_heads // self._ratio,
            "rms_norm_eps": eps,
        }

    def weights(self) -> Weights:
        hidden, mlp = self._size.hidden, self._size.mlp
        query, key = hidden, hidden // self._ratio
        found = {
            "model.embed_tokens.weight": self._matrix(
                "model.embed_tokens.weight", None, hidden, NULL
            ),
            "model.norm.weight": self._norm("model.norm.weight"),
        }
        for layer in range(self._size.layers):
            name = f"model.layers.{layer}"
            for norm in ("input_layernorm", "post_attention_layernorm"):
                found[f"{name}.{norm}.weight"] = self._norm(f"{name}.{norm}.weight")
            for part, rows, columns, spread in (
                ("self_attn.q_proj", query, hidden, SPREAD),
                ("self_attn.k_proj", key, hidden, SPREAD),
                ("self_attn.v_proj", key, hidden, SPREAD),
                ("self_attn.o_proj", hidden, query, NULL),
                ("mlp.gate_proj", mlp, hidden, SPREAD),
                ("mlp.up_proj", mlp, hidden, SPREAD),
                ("mlp.down_proj", hidden, mlp, NULL),
            ):
                full = f"{name}.{part}.weight"
                found[full] = self._matrix(full, rows, columns, spread)
        return found

    def _number(self, name: str) -> int:
        return int(str(self._old[name]))

    def _matrix(self, name: str, rows: int | None, columns: int, spread: float) -> Array:
        """The given values in the corner, `spread` around them; all of it in an added block."""
        given = self._given.get(name, np.zeros((0, 0), np.float32))
        shape = (given.shape[0] if rows is None else rows, columns)
        matrix = self._random.standard_normal(shape, np.float32) * np.float32(spread)
        matrix[: given.shape[0], : given.shape[1]] = given
        return matrix

    def _norm(self, name: str) -> Array:
        given = self._given.get(name, np.zeros(0, np.float32))
        values = np.full(self._size.hidden, self._shrink)
        values[: len(given)] = given * self._shrink
        return values


def read(folder: Path) -> tuple[Config, Weights]:
    """Configuration and weights of an exported Llama, in Hugging Face's names."""
    load_manifest(folder)
    config: Config = json.loads((folder / "config.json").read_text())
    model = onnx.load(folder / "model.onnx")
    widen(model)
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    num_layers = int(str(config["num_hidden_layers"]))
    head = int(str(config["head_dim"]))
    query, key = (
        head * int(str(config[f"num_{kind}_heads"])) for kind in ("attention", "key_value")
    )
    found = {
        "model.embed_tokens.weight": arrays["lm_head.MatMul.weight"].T,
        "model.norm.weight": arrays[f"model.layers.{num_layers}.final_norm_layernorm.weight"],
    }
    for layer in range(num_layers):
        name = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"{name}.{norm}.weight"] = arrays[f"{name}.{norm}.weight"]
        packed = np.split(arrays[f"{name}.attn.qkv_proj.MatMul.weight"].T, [query, query + key])
        for part, matrix in zip("qkv", packed, strict=True):
            found[f"{name}.self_attn.{part}_proj.weight"] = matrix
        found[f"{name}.self_attn.o_proj.weight"] = arrays[f"{name}.attn.o_proj.MatMul.weight"].T
        for part in ("gate", "up", "down"):
            array = arrays[f"{name}.mlp.{part}_proj.MatMul.weight"]
            found[f"{name}.mlp.{part}_proj.weight"] = array.T
    return config, {name: np.ascontiguousarray(array) for name, array in found.items()}


def save(config: Config, weights: Weights, tokenizer: Path, out: Path) -> None:
    """A Hugging Face folder, with the tokenizer of another one."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    for name in TOKENIZER:
        if (tokenizer / name).is_file():
            shutil.copy(tokenizer / name, out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=SIZES, default="110m")
    arguments = parser.parse_args()
    config, weights = grow(*read(arguments.source), SIZES[arguments.size])
    save(config, weights, arguments.source, arguments.out)
    print(f"{sum(w.size for w in weights.values()) / 1e6:.0f} M parameters in {arguments.out}")


if __name__ == "__main__":
    main()
