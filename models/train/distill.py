"""python -m models.train.distill --prompts FILE --model TARGET --out models/my-drafter

Trains a draft model on a target's own answers to a user's prompts, as Minions (arXiv:2402.15678)
finetunes its small models. The answers come from a running Quorum; OUT becomes a draft model's
folder. A stopped run goes on where it was. Needs the extra `train`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
)

from models.checks import require_same_tokens, tokenizer
from models.library import MODELS, NAME
from models.train import shipped
from models.train.answers import TEMPERATURES, Answer, Collector, held_out, read_prompts
from models.train.data import IntArray
from models.train.training import Budget, Run, mixed_precision, train
from services.verifier.export import CARRIED, export
from shared.errors import ConfigError, ModelError, QuorumError
from shared.generation import Sampling
from shared.lm.manifest import FILE_NAME, Manifest, load_manifest
from shared.lm.sampling import Place, draw

SEED = 2402_15678
BATCH, WINDOW = 16, 512
MAX_MEASURED = 64
"""Held-out answers that agreement is measured on, at each temperature."""
NOT_LEARNED = -100
FINETUNING_RATE = 0.3
"""Of the learning rates of a model that begins from nothing."""
FRESH = {"num_hidden_layers": 1, "hidden_size": 128, "intermediate_size": 384,
         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
"""The smallest shipped draft model's size."""
TRAINING, ANSWERS, SETTINGS, REPORT = "training", "answers.jsonl", "settings.json", "distilled.json"


@dataclass(frozen=True, slots=True)
class Distilled:
    """What came of it: the share of the target's tokens that the draft model says as well, given
    the text before them, on held-out prompts, by temperature."""

    target: str
    base: str
    num_answers: int
    num_held_out: int
    num_steps: int
    before: dict[str, float]
    after: dict[str, float]


def distil(
    collector: Collector,
    prompts_file: Path,
    target: Path,
    out: Path,
    *,
    base: str | None = None,
    budget: Budget,
    precision: str = "fp16",
    seed: int = SEED,
) -> Distilled:
    """The whole way, from prompts to a draft model in `out`. Raises QuorumErrors."""
    prompts = read_prompts(prompts_file)
    manifest = load_manifest(target)
    _require_place(out)
    torch.manual_seed(seed)
    model, origin = _base(base, target, manifest)
    out.mkdir(parents=True, exist_ok=True)
    answers = collector.collect(prompts, tokenizer(target), out / ANSWERS)
    apart = held_out(prompts)
    told = [answer for answer in answers if answer.tokens]
    learned = [answer for answer in told if answer.digest not in apart]
    measured = [answer for answer in told if answer.digest in apart]
    if not learned or not measured:
        raise ConfigError("the target answered nothing to the prompts that are learned from, or "
                          "nothing to those held out; give more prompts")  # fmt: skip
    _require_same_run(out, {"target": manifest.name, "base": origin, "seed": seed})
    before = agreements(model, measured)
    print(f"before: {_percent(before)}", flush=True)
    rate = 1.0 if base is None or base.endswith(".json") else FINETUNING_RATE
    run = Run(model, out / TRAINING, budget, rate)
    try:
        train([run], partial(_batch, learned, _window_of(model), seed), answer_loss)
    except KeyboardInterrupt:
        run.save()
        raise
    after = agreements(model.eval(), measured)
    print(f"after {run.step} steps: {_percent(after)}", flush=True)
    found = Distilled(
        manifest.name, origin, len(learned), len(measured), run.step, before, after
    )  # fmt: skip
    _ship(model, target, out, precision, found)
    return found


def agreements(model: LlamaForCausalLM, answers: Sequence[Answer]) -> dict[str, float]:
    """By temperature: of the target's tokens, the share that the model draws too, with the
    target's own random numbers."""
    found = {}
    for temperature in TEMPERATURES:
        own = [a for a in answers if a.temperature == temperature][:MAX_MEASURED]
        agreed = [_agreed(model, answer) for answer in own]
        found[f"{temperature:g}"] = float(np.concatenate(agreed).mean()) if agreed else 0.0
    return found


@torch.no_grad()
def _agreed(model: LlamaForCausalLM, answer: Answer) -> np.ndarray:
    """Whether each token of the answer, within the model's context, is its own draw."""
    tokens = [*answer.prompt, *answer.tokens][: _context_of(model) + 1]
    start = len(answer.prompt)
    if len(tokens) <= start:
        return np.zeros(0, bool)
    logits = model(input_ids=torch.tensor([tokens[:-1]]).to(model.device)).logits[0, start - 1 :]
    sampling = Sampling(temperature=answer.temperature, seed=answer.seed)
    places = [Place(sampling, (), position, start) for position in range(start, len(tokens))]
    return draw(logits.float().cpu().numpy(), places) == np.array(tokens[start:])


def window(answer: Answer, length: int) -> list[int]:
    """The end of an answer with what leads to it. What is only read is written as its complement,
    a negative number: training hands on nothing but arrays of tokens."""
    return [*(~token for token in answer.prompt), *answer.tokens][-length:]


def answer_loss(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy of the tokens that the target said."""
    labels = torch.where(ids < 0, NOT_LEARNED, ids)
    with mixed_precision(model.device.type):
        logits = model(input_ids=torch.where(ids < 0, ~ids, ids)).logits
    said = logits[:, :-1].float().flatten(0, 1)
    return functional.cross_entropy(said, labels[:, 1:].flatten(), ignore_index=NOT_LEARNED)


def _batch(answers: Sequence[Answer], length: int, seed: int, step: int) -> IntArray:
    """Windows padded at their ends; seeded by the step, so that a resumed run sees the same."""
    rng = np.random.default_rng((seed, step))
    windows = [window(answers[n], length) for n in rng.integers(0, len(answers), BATCH)]
    longest = max(map(len, windows))
    return np.array([[*w, *[~0] * (longest - len(w))] for w in windows], np.int64)


def _context_of(model: LlamaForCausalLM) -> int:
    return int(model.config.max_position_embeddings)


def _window_of(model: LlamaForCausalLM) -> int:
    return min(WINDOW, _context_of(model))


def _base(base: str | None, target: Path, manifest: Manifest) -> tuple[LlamaForCausalLM, str]:
    """The model to begin with, and how the report names it. Raises ModelError."""
    folder = None if base is None or base.endswith(".json") else Path(base)
    if folder is not None:
        if not folder.is_dir():
            raise ModelError(f"--base {base} is neither a folder nor a .json configuration")
        hint = "A draft model to begin with must have the target's tokens."
        require_same_tokens(target, folder, hint)
    config = _fresh(manifest) if base is None else _config(Path(base))
    origin = "fresh" if base is None else Path(base).resolve().name
    # Before it is built: a configuration may ask for more than fits in memory.
    if config.vocab_size != manifest.vocab_size:
        raise ModelError(
            f"{origin} has {config.vocab_size} tokens, but {manifest.name} has "
            f"{manifest.vocab_size}"
        )
    if folder is None:
        model = AutoModelForCausalLM.from_config(config)
    elif (folder / FILE_NAME).is_file():
        load_manifest(folder)
        model = shipped.restore(_llama(config, folder), folder)
    else:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True
        )
    return model.eval(), origin


def _fresh(manifest: Manifest) -> LlamaConfig:
    return LlamaConfig(
        **FRESH,
        vocab_size=manifest.vocab_size,
        max_position_embeddings=manifest.max_context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=None,
        eos_token_id=manifest.eos_token_ids,
    )


def _config(place: Path) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(place)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"--base {place} is no model's configuration: {reason}") from error


def _llama(config: PreTrainedConfig, folder: Path) -> LlamaForCausalLM:
    if not isinstance(config, LlamaConfig):
        raise ModelError(
            f"{folder} is an export of a {config.model_type}: of exported models only Llamas can "
            "be read back; give --base the Hugging Face folder"
        )
    return LlamaForCausalLM(config)


def _require_place(out: Path) -> None:
    if not NAME.fullmatch(out.name):
        raise ConfigError(f"--out {out}: {out.name!r} is no name for a model")
    known = {TRAINING, ANSWERS, REPORT, FILE_NAME}
    if out.exists() and not known & {path.name for path in out.iterdir()} and any(out.iterdir()):
        raise ConfigError(f"--out {out} exists and is not of an earlier run")


def _require_same_run(out: Path, settings: dict[str, object]) -> None:
    """A checkpoint is gone on from by the same run alone."""
    file = out / TRAINING / SETTINGS
    if file.exists() and json.loads(file.read_text()) != settings:
        raise ConfigError(
            f"{file.parent} holds the checkpoint of another run ({file.read_text().strip()}); "
            "remove it, or give the same settings"
        )
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(settings))


def _ship(
    model: LlamaForCausalLM, target: Path, out: Path, precision: str, found: Distilled
) -> None:
    """The draft model's folder, its manifest last; the checkpoint has done its work."""
    with TemporaryDirectory(dir=out, prefix=".exporting-") as name:
        source = Path(name) / "source"
        model.save_pretrained(source)
        for file in CARRIED:
            if file not in ("config.json", "generation_config.json") and (target / file).is_file():
                shutil.copy(target / file, source / file)
        exported = Path(name) / out.name
        export(str(source), exported, precision)
        (out / FILE_NAME).unlink(missing_ok=True)
        for file in sorted(exported.iterdir(), key=lambda file: file.name == FILE_NAME):
            os.replace(file, out / file.name)
    (out / REPORT).write_text(json.dumps(asdict(found), indent=2) + "\n")
    shutil.rmtree(out / TRAINING)


def _percent(found: dict[str, float]) -> str:
    return ", ".join(
        f"agrees with {share:.1%} of the target's tokens at temperature {temperature}"
        for temperature, share in found.items()
    )


def _target(given: str) -> Path:
    """The target's folder: given, or that of the name among the models."""
    for folder in (Path(given), MODELS / given):
        if (folder / FILE_NAME).is_file():
            return folder
    raise ConfigError(
        f"--model {given}: neither it nor {MODELS / given} is the folder of an exported model; its "
        "tokenizer is needed here"
    )


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 on")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="models.train.distill", description=__doc__)
    parser.add_argument("--prompts", type=Path, required=True, help="lines of text, or .jsonl")
    parser.add_argument("--model", required=True, help="the target: its name or its folder")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new draft model")
    parser.add_argument("--url", default=os.environ.get("QUORUM_URL", "http://127.0.0.1:8080"))
    parser.add_argument("--key", default=os.environ.get("QUORUM_KEY"), help="or QUORUM_KEY")
    parser.add_argument("--base", help="draft model to begin with, or a config.json; default: new")
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--minutes", type=_positive, default=10.0, help="of training")
    limit.add_argument("--steps", type=_whole, help="of training")
    parser.add_argument("--max-tokens", type=_whole, default=256, help="of an answer")
    parser.add_argument("--concurrency", type=_whole, default=8, help="answers at a time")
    parser.add_argument("--precision", default="fp16", choices=["fp32", "fp16", "int8", "int4"])
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args(argv)
    warnings.filterwarnings("ignore", module="(torch|transformers|onnx).*")
    try:
        target = _target(arguments.model)
        collector = Collector(
            arguments.url.rstrip("/"),
            load_manifest(target, ()).name,
            key=arguments.key,
            max_tokens=arguments.max_tokens,
            concurrency=arguments.concurrency,
        )
        distil(
            collector,
            arguments.prompts,
            target,
            arguments.out,
            base=arguments.base,
            budget=Budget(arguments.minutes * 60, num_steps=arguments.steps),
            precision=arguments.precision,
            seed=arguments.seed,
        )
    except QuorumError as error:
        print(f"distill: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("distill: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    print(f"serve it: DRAFTER_MODELS={arguments.out},ngram,suffix")
    return 0


if __name__ == "__main__":
    sys.exit(main())
