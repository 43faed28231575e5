"""python -m models.train: from installed source text to the shipped language models, in one go.

Stages: corpus, target, generate, drafters, export. Each is skipped when its result is there, and
a stopped one goes on where it was; `--work` holds everything in between. `--target` takes an
exported target instead of training one, and distils new drafters for it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM

from models.train import distillation, family, finish, shipped
from models.train.data import IntArray, Stream, prepare
from models.train.training import NextBatch, Run, mixed_precision

SEED = 2402_15678
WINDOW = 512
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("models/train/.work"))
    parser.add_argument("--out", type=Path, default=Path("models"))
    parser.add_argument("--target", type=Path, help="an exported target; none is trained then")
    parser.add_argument("--target-minutes", type=float, default=66)
    parser.add_argument("--drafter-minutes", type=float, default=11)
    parser.add_argument("--generate-minutes", type=float, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--until", choices=["target", "drafters", "export"], default="export")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    work: Path = arguments.work
    _, training, held_out = prepare(work)

    if arguments.target:
        target = shipped.load(family.TARGET, arguments.target).to(arguments.device)
        target.save_pretrained(work / family.TARGET.name)
    else:
        target = family.build(family.TARGET).to(arguments.device)
        run = Run(target, work / family.TARGET.name, arguments.target_minutes)
        run.train(_batches(training, family.TARGET.chat_share, run), _next_token_loss)
    if arguments.until == "target":
        return
    distillation.train_drafters(
        target, training, work, arguments.generate_minutes, arguments.drafter_minutes
    )
    if arguments.until == "drafters":
        return
    trained = family.DRAFTERS if arguments.target else (family.TARGET, *family.DRAFTERS)
    finish.evaluate_and_export(trained, work, arguments.out, held_out)


def _batches(streams: dict[str, Stream], chat_share: float, run: Run) -> NextBatch:
    """Batches of both kinds of text; seeded by the step, so that a resumed run sees the same."""
    num_chats = round(BATCH * chat_share)

    def next_batch() -> IntArray:
        rng = np.random.default_rng((SEED, run.step))
        windows = [
            streams["code"].windows(BATCH - num_chats, WINDOW, rng),
            streams["chat"].windows(num_chats, WINDOW, rng),
        ]
        return np.concatenate(windows)

    return next_batch


def _next_token_loss(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    with mixed_precision(model.device.type):
        return model(input_ids=ids, labels=ids).loss


if __name__ == "__main__":
    sys.exit(main())
