"""python -m models.train: from installed source text to the shipped language models, in one go.

Stages: corpus, target, generate, drafters, export. Each is skipped when its result is there, and
a stopped one goes on where it was; `--work` holds everything in between. `--target` takes an
exported target instead of training one, and distils new drafters for it.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM

from models.train import distillation, family, finish, shipped
from models.train.data import IntArray, Stream, prepare
from models.train.training import Budget, Run, mixed_precision, train

SEED = 2402_15678
WINDOW = 512
BATCH, NUM_CHATS = 16, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("models/train/.work"))
    parser.add_argument("--out", type=Path, default=Path("models"))
    parser.add_argument("--target", type=Path, help="an exported target; none is trained then")
    parser.add_argument("--drafters", type=Path, help="exported ones to go on from, by name")
    parser.add_argument("--target-minutes", type=float, default=66)
    parser.add_argument("--drafter-minutes", type=float, default=60, help="for all of them")
    parser.add_argument("--generate-minutes", type=float, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--until", choices=["target", "drafters", "export"], default="export")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    work: Path = arguments.work
    _, training, held_out = prepare(work)

    if arguments.target:
        _check_tokenizer(arguments.target, work)
        target = shipped.load(family.TARGET, arguments.target).to(arguments.device)
        target.save_pretrained(work / family.TARGET.name)
    else:
        target = family.build(family.TARGET).to(arguments.device)
        run = Run(target, work / family.TARGET.name, Budget(arguments.target_minutes * 60))
        train([run], partial(_batch, training), _next_token_loss)
    if arguments.until == "target":
        return
    file = work / "generated.npy"
    generated = distillation.generate(target, training, file, arguments.generate_minutes * 60)
    drafters = {
        member.name: shipped.load(member, arguments.drafters / member.name)
        if arguments.drafters
        else family.build(member)
        for member in family.DRAFTERS
    }
    budget = Budget(arguments.drafter_minutes * 60)
    distillation.distil(drafters, target, generated, training, work, budget)
    if arguments.until == "drafters":
        return
    trained = family.DRAFTERS if arguments.target else (family.TARGET, *family.DRAFTERS)
    is_continued = arguments.drafters is not None
    finish.evaluate_and_export(trained, work, arguments.out, held_out, is_continued)


def _check_tokenizer(target: Path, work: Path) -> None:
    """Drafters must speak the target's tokens: those of another corpus are others."""
    if (target / "tokenizer.json").read_bytes() != (work / "tokenizer/tokenizer.json").read_bytes():
        sys.exit(f"{target} has another tokenizer than what is installed here makes in {work}")


def _batch(streams: dict[str, Stream], step: int) -> IntArray:
    """Both kinds of text; seeded by the step, so that a resumed run sees the same."""
    rng = np.random.default_rng((SEED, step))
    windows = [
        streams["code"].windows(BATCH - NUM_CHATS, WINDOW, rng),
        streams["chat"].windows(NUM_CHATS, WINDOW, rng),
    ]
    return np.concatenate(windows)


def _next_token_loss(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    with mixed_precision(model.device.type):
        return model(input_ids=ids, labels=ids).loss


if __name__ == "__main__":
    sys.exit(main())
