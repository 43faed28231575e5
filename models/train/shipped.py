"""An exported member of the family back as a transformers model, to distil further drafters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from transformers import LlamaForCausalLM

from models.train.family import Member, build
from services.verifier.precision import widen

Weights = dict[str, npt.NDArray[np.float32]]


def load(member: Member, folder: Path) -> LlamaForCausalLM:
    """The model of `folder`, an export of `member` in fp32 or fp16."""
    graph = onnx.load(folder / "model.onnx")
    widen(graph)
    exported: Weights = {
        i.name.removeprefix("model.").replace(".MatMul.weight", ".weight"): numpy_helper.to_array(i)
        for i in graph.graph.initializer
    }
    model = build(member)
    wanted = {name: name.removeprefix("model.") for name in model.state_dict()}
    model.load_state_dict(
        {name: torch.tensor(_find(short, exported, member)) for name, short in wanted.items()}
    )
    return model


def _find(name: str, exported: Weights, member: Member) -> npt.NDArray[np.float32]:
    """A weight as transformers has it: [out, in], queries, keys and values apart."""
    if name in ("embed_tokens.weight", "lm_head.weight"):
        return exported["lm_head.weight"].T
    if name == "norm.weight":
        return exported[f"layers.{member.num_layers}.final_norm_layernorm.weight"]
    if "norm" in name:
        return exported[name]
    name = name.replace("self_attn", "attn")
    if name in exported:
        return exported[name].T
    layer, _, part = name.removesuffix("_proj.weight").rpartition(".")
    head_size = member.width // member.num_heads
    sizes = [n * head_size for n in (member.num_heads, member.num_kv_heads, member.num_kv_heads)]
    packed = np.split(exported[f"{layer}.qkv_proj.weight"], np.cumsum(sizes)[:-1], axis=1)
    return packed["qkv".index(part)].T
