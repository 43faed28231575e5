"""Drafters learn the target's own distribution, on the target's own text and on the corpus, all
from the same batches: what the target says of them is computed once.

Minions (arXiv:2402.15678) finetunes its small models on the large one's generations; here they
learn its whole distribution at each position (forward KL), from nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from models.train.data import IntArray, Stream
from models.train.training import MICRO_BATCH, Budget, LossOf, Run, mixed_precision, train

SEED = 1
BATCH, WINDOW = 16, 512
NUM_GENERATED, NUM_CHATS = 10, 2
"""Windows of a batch: the target's own text, chats, and the rest code."""
PROMPT_LENGTHS = (16, 64, 128)
NUM_NEW_TOKENS = 192
TEMPERATURES = (0.0, 0.7, 1.0)


def distil(
    drafters: Mapping[str, LlamaForCausalLM],
    target: LlamaForCausalLM,
    generated: Stream,
    training: Mapping[str, Stream],
    work: Path,
    budget: Budget,
) -> None:
    """Trains the drafters, each in a folder of `work` by its name, until their common budget is
    spent."""
    target.eval()
    runs = [Run(model.to(target.device), work / name, budget) for name, model in drafters.items()]
    train(runs, partial(_batch, training, generated), _divergence_from(target))


def generate(
    target: LlamaForCausalLM, training: Mapping[str, Stream], file: Path, budget_s: float
) -> Stream:
    """Text that the target continues from training prompts: greedy, cooled and free. What the file
    holds from before is taken."""
    target.eval()
    if not file.exists():
        rng = np.random.default_rng(SEED)
        torch.manual_seed(SEED)
        pieces: list[np.ndarray] = []
        started = time.monotonic()
        batch = 0
        while time.monotonic() - started < budget_s:
            kind = "chat" if batch % 3 == 0 else "code"
            prompts = training[kind].windows(48, PROMPT_LENGTHS[batch % len(PROMPT_LENGTHS)], rng)
            temperature = TEMPERATURES[batch // 3 % len(TEMPERATURES)]
            pieces.append(_continue(target, torch.from_numpy(prompts), temperature))
            batch += 1
            num_tokens = sum(piece.size for piece in pieces)
            print(f"generated {num_tokens} tokens, {time.monotonic() - started:.0f} s", flush=True)
        np.save(file, np.concatenate([piece.ravel() for piece in pieces]).astype(np.uint16))
    return Stream(np.load(file))


@torch.no_grad()
def _continue(target: LlamaForCausalLM, prompts: torch.Tensor, temperature: float) -> np.ndarray:
    """Prompts with their continuations [n, length]; the end of a text does not stop it."""
    drawing: dict[str, float] = {"do_sample": False}
    if temperature > 0:
        drawing = {"do_sample": True, "temperature": temperature, "top_k": 0}
    ids = prompts.to(target.device)
    generated = target.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NUM_NEW_TOKENS,
        min_new_tokens=NUM_NEW_TOKENS,
        eos_token_id=None,
        **drawing,
    )
    return generated.cpu().numpy()


def _batch(training: Mapping[str, Stream], generated: Stream, step: int) -> IntArray:
    rng = np.random.default_rng((SEED, step))
    num_corpus = BATCH - NUM_GENERATED - NUM_CHATS
    windows = [
        generated.windows(NUM_GENERATED, WINDOW, rng),
        training["chat"].windows(NUM_CHATS, WINDOW, rng),
        training["code"].windows(num_corpus, WINDOW, rng),
    ]
    return np.concatenate(windows)


def _divergence_from(target: LlamaForCausalLM) -> LossOf:
    """Forward KL of a model from the target, mean over positions. What the target says is kept
    for the other models, which are given the same windows."""
    said: dict[bytes, torch.Tensor] = {}

    def wanted_of(ids: torch.Tensor) -> torch.Tensor:
        key = ids.cpu().numpy().tobytes()
        if key not in said:
            if len(said) == BATCH // MICRO_BATCH:
                del said[next(iter(said))]
            with torch.no_grad():
                logits = target(input_ids=ids).logits.float().flatten(0, 1)
                said[key] = functional.log_softmax(logits, dim=-1)
        return said[key]

    def loss_of(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
        with mixed_precision(target.device.type):
            teacher = wanted_of(ids)
            logits = model(input_ids=ids).logits
        student = functional.log_softmax(logits.float().flatten(0, 1), dim=-1)
        return functional.kl_div(student, teacher, log_target=True, reduction="batchmean")

    return loss_of
