"""One training loop for target and drafters: a time budget, checkpoints, a progress line.

Hidden matrices by Muon, the rest by AdamW; the learning rate warms up, stays, and falls linearly
over the last third of the budget. A run that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from models.train.data import IntArray
from models.train.muon import Muon

CHECKPOINT_EVERY_S = 240
WARM_UP_STEPS = 60
DECAY_SHARE = 0.35
ADAM_RATE, MUON_RATE = 2e-3, 1e-2

MICRO_BATCH = 4
"""Windows in one pass: more would fall out of the caches, which made a step a quarter longer."""

LossOf = Callable[[LlamaForCausalLM, torch.Tensor], torch.Tensor]
"""The mean loss of a model on windows of token ids [n, length]."""


def mixed_precision(device: str) -> torch.autocast:
    """bf16 where the hardware has it: emulated on a CPU, it is twenty times slower than fp32."""
    is_native = device == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device, torch.bfloat16, enabled=is_native)


@dataclass(slots=True)
class Budget:
    """Time to train, or steps, of one run or of several that take turns."""

    seconds: float
    spent_s: float = 0.0
    num_steps: int | None = None
    """Where it is not time that is limited."""
    step: int = 0

    @property
    def share(self) -> float:
        """How much of it is spent, from 0 to 1."""
        if self.num_steps is not None:
            return self.step / self.num_steps
        return self.spent_s / self.seconds

    @property
    def is_spent(self) -> bool:
        return self.share >= 1.0


class Run:
    """A model in training, with its optimizers and its place in the budget."""

    def __init__(
        self, model: LlamaForCausalLM, folder: Path, budget: Budget, rate: float = 1.0
    ) -> None:
        """`rate` is a factor of the learning rates: less than 1 for a model that knows much."""
        self.model = model
        self._highest_rate = rate
        self.folder = folder
        self.budget = budget
        self.step = 0
        self.num_tokens = 0
        self.loss = float("nan")
        named = list(model.named_parameters())
        matrices = [p for n, p in named if p.ndim == 2 and not _is_of_tokens(n)]
        others = [p for n, p in named if p.ndim != 2 or _is_of_tokens(n)]
        self._optimizers: list[tuple[torch.optim.Optimizer, float]] = [
            (Muon(matrices, lr=MUON_RATE, weight_decay=0.05), MUON_RATE),
            (
                torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0),
                ADAM_RATE,
            ),
        ]
        self._resume()

    def advance(self, windows: IntArray, loss_of: LossOf) -> None:
        """One optimizer step on these windows of token ids [n, length], timed against the
        budget."""
        started = time.monotonic()
        batch = torch.from_numpy(windows).to(self.model.device)
        rate = self._rate()
        for optimizer, base in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = base * rate
        value = 0.0
        for part in batch.split(MICRO_BATCH):
            loss = loss_of(self.model, part) * (len(part) / len(batch))
            loss.backward()
            value += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, _ in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.loss = value if self.step == 0 else 0.98 * self.loss + 0.02 * value
        self.step += 1
        self.num_tokens += batch.numel()
        self.budget.step = self.step
        self.budget.spent_s += time.monotonic() - started

    def save(self) -> None:
        """The model as a Hugging Face folder, and all that a resumption needs; no pickle."""
        self.model.save_pretrained(self.folder)
        tensors: dict[str, torch.Tensor] = {}
        for number, (optimizer, _) in enumerate(self._optimizers):
            for key, state in optimizer.state_dict()["state"].items():
                for name, value in state.items():
                    tensors[f"{number}.{key}.{name}"] = torch.as_tensor(value).contiguous()
        save_file(tensors, self.folder / "optimizer.safetensors")
        place = {
            "step": self.step,
            "num_tokens": self.num_tokens,
            "elapsed_s": self.budget.spent_s,
            "loss": self.loss,
        }
        (self.folder / "place.json").write_text(json.dumps(place))

    def _resume(self) -> None:
        if not (self.folder / "place.json").exists():
            return
        self.model.load_state_dict(load_file(self.folder / "model.safetensors"), strict=False)
        self.model.tie_weights()
        place = json.loads((self.folder / "place.json").read_text())
        self.step, self.num_tokens = place["step"], place["num_tokens"]
        self.budget.step = self.step
        self.budget.spent_s, self.loss = place["elapsed_s"], place["loss"]
        tensors = load_file(self.folder / "optimizer.safetensors")
        for number, (optimizer, _) in enumerate(self._optimizers):
            whole = optimizer.state_dict()
            whole["state"] = {}
            for path, value in tensors.items():
                owner, key, name = path.split(".")
                if int(owner) == number:
                    whole["state"].setdefault(int(key), {})[name] = value
            optimizer.load_state_dict(whole)

    def _rate(self) -> float:
        left = 1.0 - self.budget.share
        rate = min(1.0, (self.step + 1) / WARM_UP_STEPS, max(left, 0.01) / DECAY_SHARE)
        return rate * self._highest_rate


def _is_of_tokens(name: str) -> bool:
    """Whether a parameter has a row for each token."""
    return "embed" in name or "lm_head" in name


def train(runs: Sequence[Run], next_batch: Callable[[int], IntArray], loss_of: LossOf) -> None:
    """Advances the runs by turns, each on the same batches, until their common budget is spent,
    with a checkpoint every few minutes. `next_batch` makes the windows of a step."""
    for run in runs:
        run.model.train()
    saved = time.monotonic()
    while not runs[0].budget.is_spent:
        batch = next_batch(runs[0].step)
        for run in runs:
            run.advance(batch, loss_of)
        if runs[0].step % 20 == 0:
            report(runs)
        if time.monotonic() - saved > CHECKPOINT_EVERY_S:
            for run in runs:
                run.save()
            saved = time.monotonic()
    for run in runs:
        run.save()


def report(runs: Sequence[Run]) -> None:
    """One line of progress, overwritten on a terminal."""
    first, budget = runs[0], runs[0].budget
    minutes = f"{budget.spent_s / 60:.1f}"
    if budget.num_steps is None:
        minutes += f" of {budget.seconds / 60:.0f}"
    line = (
        f"{budget.share:.0%}, {minutes} min, step {first.step}, "
        f"{first.num_tokens / 1e6:.2f} M tokens, "
        f"{first.num_tokens / max(budget.spent_s, 1e-9):.0f} tokens/s, loss of "
        + ", ".join(f"{run.folder.name} {run.loss:.3f}" for run in runs)
    )
    print(line, end="\r" if sys.stdout.isatty() else "\n", flush=True)
