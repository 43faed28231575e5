"""An exported member of the family back as a transformers model, to distil further drafters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from transformers import LlamaConfig, LlamaForCausalLM

from models.train.family import Member, build
from services.verifier.precision import widen
from shared.errors import ModelError

Weights = dict[str, npt.NDArray[np.float32]]


def load(member: Member, folder: Path) -> LlamaForCausalLM:
    """The model of `folder`, an export of `member` in fp32 or fp16."""
    return restore(build(member), folder)


def restore(model: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    """The model with the weights of `folder`, an export of its like in fp32 or fp16. Raises
    ModelError for another kind."""
    graph = onnx.load(folder / "model.onnx")
    widen(graph)
    exported: Weights = {
        i.name.removeprefix("model.").replace(".MatMul.weight", ".weight"): numpy_helper.to_array(i)
        for i in graph.graph.initializer
    }
    wanted = {name: name.removeprefix("model.") for name in model.state_dict()}
    try:
        found = {n: torch.tensor(_find(s, exported, model.config)) for n, s in wanted.items()}
    except KeyError as error:
        raise ModelError(
            f"{folder}: weights can be read back of a Llama in fp32 or fp16 only; it has no {error}"
        ) from error
    model.load_state_dict(found)
    return model


def _find(name: str, exported: Weights, config: LlamaConfig) -> npt.NDArray[np.float32]:
    """A weight as transformers has it: [out, in], queries, keys and values apart."""
    if name == "embed_tokens.weight" and name in exported:
        return exported[name]
    if name in ("embed_tokens.weight", "lm_head.weight"):
        return exported["lm_head.weight"].T
    if name == "norm.weight":
        return exported[f"layers.{config.num_hidden_layers}.final_norm_layernorm.weight"]
    if "norm" in name:
        return exported[name]
    name = name.replace("self_attn", "attn")
    if name in exported:
        return exported[name].T
    layer, _, part = name.removesuffix("_proj.weight").rpartition(".")
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    sizes = [n * config.head_dim for n in (heads, kv_heads, kv_heads)]
    packed = np.split(exported[f"{layer}.qkv_proj.weight"], np.cumsum(sizes)[:-1], axis=1)
    return packed["qkv".index(part)].T
