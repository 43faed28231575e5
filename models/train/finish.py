"""Measures the trained family on held-out files, exports it, and writes the model cards."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM

from models.train import card, family
from models.train.data import KINDS, IntArray, Stream
from models.train.family import Member
from shared.generation import Sampling
from shared.lm.sampling import Place, draw

NUM_TEXTS, PROMPT_LENGTH, TEXT_LENGTH = 48, 64, 96
EVALUATION_WINDOW = 512
MAX_WINDOWS = 120


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Share of the target's tokens that drafters propose, along the target's own text."""

    temperature: float
    alone: dict[str, float]
    all_of_them: float
    any_of_them: float


def evaluate_and_export(
    trained: Sequence[Member],
    work: Path,
    out: Path,
    held_out: dict[str, Stream],
    is_continued: bool = False,
) -> None:
    """Writes `out`/<name> for each trained member: graph, tokenizer, manifest and README.md.
    `is_continued`: the drafters did not begin from nothing, but from those exported before."""
    members = (family.TARGET, *family.DRAFTERS)
    models = {m.name: LlamaForCausalLM.from_pretrained(work / m.name).eval() for m in members}
    perplexities = {
        name: {kind: _perplexity(model, held_out[kind]) for kind in KINDS}
        for name, model in models.items()
    }
    acceptances = [_acceptance(models, held_out, temperature) for temperature in (0.0, 1.0)]
    for member in trained:
        shutil.copytree(work / "tokenizer", work / member.name, dirs_exist_ok=True)
        command = [sys.executable, "-m", "services.verifier.export"]
        arguments = [str(work / member.name), str(out / member.name), "--precision", "fp16"]
        subprocess.run([*command, *arguments], check=True)
        place = json.loads((work / member.name / "place.json").read_text())
        text = card.render(member, place, perplexities[member.name], acceptances, is_continued)
        (out / member.name / "README.md").write_text(text)
    print(json.dumps({"perplexity": perplexities}, indent=2))
    print(acceptances)


@torch.no_grad()
def _perplexity(model: LlamaForCausalLM, stream: Stream) -> float:
    """exp of the mean negative log-likelihood per token."""
    windows = stream.consecutive(EVALUATION_WINDOW)
    windows = windows[:: max(1, len(windows) // MAX_WINDOWS)]
    losses = []
    for batch in np.array_split(windows, -(-len(windows) // 8)):
        ids = torch.from_numpy(batch)
        losses += [float(model(input_ids=ids, labels=ids).loss)] * len(batch)
    return float(np.exp(np.mean(losses)))


@torch.no_grad()
def _acceptance(
    models: dict[str, LlamaForCausalLM], held_out: dict[str, Stream], temperature: float
) -> Acceptance:
    """Target text from held-out prompts, and at each of its tokens what each drafter would
    propose: its argmax, or its draw with the target's own noise."""
    rng = np.random.default_rng(0)
    prompts = np.concatenate(
        [held_out[kind].windows(NUM_TEXTS // 2, PROMPT_LENGTH, rng) for kind in KINDS]
    )
    target = models[family.TARGET.name]
    texts = _write(target, prompts, temperature)
    wanted = texts[:, PROMPT_LENGTH:]
    agrees = {
        member.name: _draws(models[member.name], texts, temperature) == wanted
        for member in family.DRAFTERS
    }
    stacked = np.stack(list(agrees.values()))
    return Acceptance(
        temperature,
        {name: float(agree.mean()) for name, agree in agrees.items()},
        float(stacked.all(axis=0).mean()),
        float(stacked.any(axis=0).mean()),
    )


def _write(target: LlamaForCausalLM, prompts: IntArray, temperature: float) -> IntArray:
    ids = prompts
    cache = None
    fresh = torch.from_numpy(prompts)
    for _ in range(TEXT_LENGTH):
        output = target(input_ids=fresh, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        places = _places(len(ids), ids.shape[1], temperature)
        new = draw(output.logits[:, -1].numpy(), places)
        ids = np.concatenate([ids, new[:, None]], axis=1)
        fresh = torch.from_numpy(ids[:, -1:])
    return ids


def _draws(model: LlamaForCausalLM, texts: IntArray, temperature: float) -> IntArray:
    """What the model draws at each position after the prompt, given the text before it."""
    logits = model(input_ids=torch.from_numpy(texts)).logits.numpy()
    drawn = [
        draw(logits[:, position - 1], _places(len(texts), position, temperature))
        for position in range(PROMPT_LENGTH, PROMPT_LENGTH + TEXT_LENGTH)
    ]
    return np.stack(drawn, axis=1)


def _places(num_texts: int, position: int, temperature: float) -> list[Place]:
    """Of the same position in each text, with a seed of its own; no penalty asks for tokens."""
    return [
        Place(Sampling(temperature=temperature, seed=n), (), position, PROMPT_LENGTH)
        for n in range(num_texts)
    ]
