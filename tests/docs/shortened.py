"""Commands of the documents that are run with less than they would take: benchmarks with fewer
rounds, and models of a few random weights in the place of a hub's."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.docs.blocks import ROOT, Command
from tests.docs.conftest import as_shipped
from tests.docs.running import Terminal, run
from tests.random_models import END, TEMPLATE, write_source
from tests.vocabularies import byte_level

SHORTER = {
    "benchmarks.gateway --seconds 10 --rounds 5":
        "benchmarks.gateway --seconds 0.1 --rounds 1 --only embedded",
    "benchmarks.record --groups 2": "benchmarks.record --groups 1 --tokens 32 --noise-groups 0",
    "benchmarks.rows --scale 0.1": "benchmarks.rows --scale 0.001 --seconds 0.5",
    "--minutes 60": "--steps 2 --max-tokens 16",
}  # fmt: skip
"""What a document has, and what is run."""
SMALLER = {
    "benchmarks.gpu --targets 110m --precisions half":
        "benchmarks.gpu --device cpu --targets family --precisions fp32 --concurrency 1 "
        "--max-tokens 16",
    "--device cuda": "--device cpu",
    "--targets 110m --precisions fp32,int8": "--targets family --precisions fp32",
}  # fmt: skip
"""Likewise, of what takes minutes all the same."""
LONG_S = 900
PROMPTS = tuple(f"    def {name}(self):\n        " for name in ("close", "read", "write", "parse"))
CONTEXT = 256


def shorter(text: str, instead: Mapping[str, str] = SHORTER) -> str:
    for written, run_instead in instead.items():
        text = text.replace(written, run_instead)
    return text


def long_benchmark(command: Command, terminal: Terminal) -> None:
    """On the CPU, and with the shipped target instead of larger ones."""
    assert run(command, terminal, shorter(command.text, SMALLER), patience_s=LONG_S)


def benchmark(command: Command, terminal: Terminal) -> None:
    """Whatever it writes is written to the clone."""
    assert run(command, terminal, shorter(command.text))


def add(command: Command, terminal: Terminal) -> None:
    """A target and a draft model, which no block before has added. What a command has made once is
    there at once the next time that a document has it."""
    models = terminal.world.folder / "models"
    kept = terminal.world.folder.with_name(f"added-{zlib.crc32(command.text.encode())}")
    if kept.exists():
        shutil.rmtree(models)
        shutil.copytree(kept, models, symlinks=True)
        return
    as_shipped(terminal.world.folder)
    run(command, terminal, _of_folders(command.text, terminal.world.folder))
    assert _served(models)["mine"]["drafters"]
    shutil.copytree(models, kept, symlinks=True)


def remove(command: Command, terminal: Terminal) -> None:
    """What the block has added."""
    models = terminal.world.folder / "models"
    assert "mine" in _served(models)
    run(command, terminal)
    assert _served(models) == _served(ROOT / "models")


def export(command: Command, terminal: Terminal) -> None:
    """A target."""
    run(command, terminal, _of_folders(command.text, terminal.world.folder))


def distill(command: Command, terminal: Terminal) -> None:
    """From the served target's answers to a few prompts, by two steps of training."""
    folder = terminal.world.folder
    as_shipped(folder)
    (folder / "models" / "mine").symlink_to(ROOT / "models" / "quorum-6m")
    lines = [json.dumps({"prompt": prompt}) for prompt in PROMPTS]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    run(command, terminal, shorter(command.text))
    assert (folder / "models" / "my-drafter" / "distilled.json").is_file()
    as_shipped(folder)


def _served(models: Path) -> Any:
    return json.loads((models / "served.json").read_text())


def _of_folders(text: str, clone: Path) -> str:
    """The command, with a folder of that name for each model of the hub."""
    for name in set(re.findall(r"Qwen/[\w.-]+", text)):
        text = text.replace(name, str(_source(clone.parent / "hub" / name)))
    return text


def _source(folder: Path) -> Path:
    """As transformers saves it: a model of random weights, and a tokenizer trained here."""
    if not folder.exists():
        kind = re.match(r"[A-Z][a-z]+\d", folder.name)
        assert kind is not None, folder.name
        write_source(folder, kind[0], byte_level(300, [END]), CONTEXT, TEMPLATE)
    return folder
