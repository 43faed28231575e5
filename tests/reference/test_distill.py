"""A draft model learns a served target's own answers, and is served beside it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from models.train import answers, distill, shipped
from models.train.answers import Answer, Collector, held_out, read_answers, read_prompts
from models.train.training import Budget, Run, train
from services.drafter.config import DrafterConfig
from services.drafter.service import build
from services.verifier.export import export
from shared.bus import connect
from shared.config import BusConfig
from shared.errors import ConfigError, ModelError
from shared.lm.manifest import load_manifest
from tests.random_models import END, write_source
from tests.redis_server import free_port
from tests.test_serve import read_until
from tests.vocabularies import byte_level

pytestmark = [pytest.mark.reference, pytest.mark.timeout(300)]

ROOT = Path(__file__).parent.parent.parent
MODELS = ROOT / "models"
TARGET = MODELS / "quorum-6m"
NOWHERE = "http://127.0.0.1:9"
NAMES = ("close", "read", "write", "__repr__", "__init__", "parse", "run", "_load", "items", "get")


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    # transformers and its dependencies warn about their own future.
    warnings.simplefilter("ignore")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A running system of the shipped target."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "services", "gateway", "verifier", "voter", "drafter"],
        cwd=ROOT,
        env={**os.environ, "GATEWAY_PORT": str(port), "DRAFTER_MODELS": "ngram,suffix"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        read_until(process, "Quorum is ready")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts and chats."""
    file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    bodies: list[dict[str, object]] = [
        {"prompt": f"    def {name}({arguments}):\n        "}
        for name in NAMES
        for arguments in ("self", "self, path", "self, *args", "name, value=None", "")
    ]
    bodies += [
        {"messages": [{"role": "user", "content": f"What does textwrap.{name} do?"}]}
        for name in NAMES
    ]
    file.write_text("".join(json.dumps(body) + "\n" for body in bodies))
    return file


@pytest.fixture(scope="module")
def collected(url: str, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the target's answers to all of them."""
    file = tmp_path_factory.mktemp("collected") / "answers.jsonl"
    found = collector(url).collect(read_prompts(prompts), distill.tokenizer(TARGET), file)
    assert len(found) == 2 * 6 * len(NAMES)
    return file


def collector(url: str, model: str = "quorum-6m") -> Collector:
    return Collector(url, model, key=None, max_tokens=48, concurrency=4)


def read_back(folder: Path) -> LlamaForCausalLM:
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(folder))
    return shipped.restore(model, folder).eval()


def learned(prompts: Path, collected: Path) -> list[Answer]:
    """The answers that training is given."""
    apart = held_out(read_prompts(prompts))
    return [answer for answer in read_answers(collected).values() if answer.digest not in apart]


def started(out: Path, collected: Path) -> Path:
    """A folder whose answers are there, so that nobody needs to be asked."""
    out.mkdir()
    (out / "answers.jsonl").write_bytes(collected.read_bytes())
    return out


def test_answers_are_what_the_target_says_and_are_asked_for_once(
    url: str, prompts: Path, collected: Path, tmp_path: Path
) -> None:
    kept = read_answers(collected)
    model = read_back(TARGET)
    said = list(kept.values())
    # The target agrees with itself: the tokens, their places and the random numbers are right.
    assert min(distill.agreements(model, said).values()) > 0.999
    assert {answer.temperature for answer in said} == {0.0, 1.0}
    # Half of an answer at the end, and one fewer, as a kill leaves it: the two are asked again.
    file = tmp_path / "answers.jsonl"
    lines = collected.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-2]) + lines[-2][:30])
    again = collector(url).collect(read_prompts(prompts), distill.tokenizer(TARGET), file)
    assert {(a.digest, a.temperature): a for a in again} == kept
    # With all of them there, nobody is asked.
    whole = collector(NOWHERE).collect(read_prompts(prompts), distill.tokenizer(TARGET), file)
    assert len(whole) == len(kept)


@pytest.mark.thorough
def test_a_fresh_draft_model_learns_and_is_served(
    prompts: Path, collected: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = started(tmp_path / "mine", collected)
    arguments = ["--prompts", str(prompts), "--model", str(TARGET), "--out", str(out)]
    assert distill.main([*arguments, "--url", NOWHERE, "--steps", "100"]) == 0
    printed = capsys.readouterr().out
    assert "before: agrees with " in printed
    assert "after 100 steps: agrees with " in printed
    report = json.loads((out / "distilled.json").read_text())
    assert report["num_answers"] + report["num_held_out"] == len(read_answers(collected))
    assert report["after"]["0"] > report["before"]["0"] + 0.1
    torch.manual_seed(distill.SEED)
    fresh, _ = distill._base(None, TARGET, load_manifest(TARGET))
    before, after = (
        distill.agreements(model, learned(prompts, collected)) for model in (fresh, read_back(out))
    )
    assert after["0"] > before["0"] + 0.2
    assert after["1"] > before["1"]
    manifest = load_manifest(out)
    assert (manifest.name, manifest.precision, manifest.vocab_size) == ("mine", "fp16", 4096)
    assert set(manifest.files) >= {"model.onnx", "tokenizer.json", "chat_template.jinja"}
    assert not (out / "training").exists()
    asyncio.run(load_as_drafter(out))


async def load_as_drafter(folder: Path) -> None:
    bus = connect(BusConfig())
    (service,) = build(DrafterConfig(models=str(folder)), bus, BusConfig())
    await service.load()
    await bus.close()


def test_a_shipped_draft_model_is_gone_on_from(
    prompts: Path, collected: Path, tmp_path: Path
) -> None:
    out = started(tmp_path / "better", collected)
    small = str(MODELS / "quorum-draft-small")
    found = distill.distil(
        collector(NOWHERE),
        prompts,
        TARGET,
        out,
        base=small,
        budget=Budget(600, num_steps=30),
    )
    assert found.base == "quorum-draft-small"
    assert found.before["0"] > 0.4
    base, _ = distill._base(small, TARGET, load_manifest(TARGET))
    before, after = (
        distill.agreements(model, learned(prompts, collected)) for model in (base, read_back(out))
    )
    assert after["0"] > before["0"]


def test_a_stopped_training_ends_where_an_unbroken_one_does(
    collected: Path, tmp_path: Path
) -> None:
    told = list(read_answers(collected).values())
    runs = {}
    for name, stops in (("unbroken", [6]), ("stopped", [3, 6])):
        for stop in stops:
            torch.manual_seed(0)
            model, _ = distill._base(None, TARGET, load_manifest(TARGET))
            budget = Budget(600, num_steps=6)
            run = runs[name] = Run(model, tmp_path / name, budget)
            while run.step < stop:
                run.advance(distill._batch(told, 64, 1, run.step), distill.answer_loss)
            run.save()
    pairs = zip(*(runs[n].model.parameters() for n in ("unbroken", "stopped")), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert runs["stopped"].budget.is_spent


def test_an_interrupted_training_keeps_its_checkpoint_for_the_same_run_alone(
    prompts: Path, collected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = started(tmp_path / "mine", collected)

    def interrupted(runs: list[Run], *others: object) -> None:
        train(runs, *others)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(distill, "train", interrupted)
    arguments = ["--prompts", str(prompts), "--model", str(TARGET), "--out", str(out)]
    assert distill.main([*arguments, "--url", NOWHERE, "--steps", "2"]) == 130
    assert json.loads((out / "training" / "place.json").read_text())["step"] == 2
    assert distill.main([*arguments, "--url", NOWHERE, "--steps", "2", "--seed", "5"]) == 1
    monkeypatch.undo()
    assert distill.main([*arguments, "--url", NOWHERE, "--steps", "2"]) == 0
    assert json.loads((out / "distilled.json").read_text())["num_steps"] == 2


def test_only_what_the_target_said_is_learned() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32, num_hidden_layers=1, **sizes))
    answer = Answer("0", 0.0, 0, [3, 4, 5], [6, 7])
    assert distill.window(answer, 9) == [~3, ~4, ~5, 6, 7]
    assert distill.window(answer, 3) == [~5, 6, 7]
    batch = distill._batch([answer], 9, 0, 0)
    loss = distill.answer_loss(model, torch.from_numpy(batch))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[3, 4, 5, 6, 7]])).logits[0].log_softmax(-1)
    expected = -(logits[2, 6] + logits[3, 7]) / 2
    assert float(loss.detach()) == pytest.approx(float(expected), abs=2e-3)
    # Padding is neither read nor learned.
    padded = np.concatenate([batch, np.full((len(batch), 3), ~0)], axis=1)
    other = distill.answer_loss(model, torch.from_numpy(padded))
    assert float(other.detach()) == pytest.approx(float(expected), abs=2e-3)


def test_the_split_does_not_depend_on_the_other_prompts(prompts: Path) -> None:
    found = read_prompts(prompts)
    apart = held_out(found)
    assert 0 < len(apart) < len(found)
    assert len(held_out(found[:2])) == 1
    many = [answers.Prompt({"prompt": str(n)}) for n in range(500)]
    assert held_out(many[:250]) == held_out(many) & {prompt.digest for prompt in many[:250]}
    assert 20 < len(held_out(many)) < 90


BAD_PROMPTS = {
    "absent": (None, "cannot be read"),
    "empty": ("", "holds 0 prompts"),
    "one.jsonl": ('{"prompt": "a"}\n{"prompt": "a"}\n', "holds 1 prompts"),
    "broken.jsonl": ('{"prompt": "a"}\n{"prompt"', ":2 is not JSON"),
    "other.jsonl": ('{"text": "a"}\n', ":1 is no object with a `prompt` or `messages`"),
    "bytes": (b"\xff\xff\n", "cannot be read"),
}


@pytest.mark.parametrize("name", BAD_PROMPTS)
def test_prompts_that_cannot_be_used_are_refused_by_line(tmp_path: Path, name: str) -> None:
    content, complaint = BAD_PROMPTS[name]
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=complaint):
        read_prompts(tmp_path / name)


REFUSALS = {
    "no server": "cannot be reached",
    "no folder": "is the folder of an exported model",
    "unknown model": "does not serve quorum-draft-small; it serves quorum-6m",
    "other tokenizer": "is not that of its folder here",
    "base of other tokens": "has other tokens than quorum-6m",
    "base of another size": "has 300 tokens, but quorum-6m has 4096",
    "base that is nothing": "is neither a folder nor a .json",
    "base quantized": "convert from fp32 or fp16|of a Llama in fp32 or fp16 only",
    "out that is taken": "is not of an earlier run",
    "out without a name": "is no name for a model",
}


@pytest.mark.parametrize("case", REFUSALS)
def test_every_wrong_input_is_a_sentence(
    url: str, prompts: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out, base = str(TARGET), tmp_path / "out", None
    if case == "no server":
        url = NOWHERE
    elif case == "no folder":
        model = "nothing"
    elif case == "unknown model":
        model = str(MODELS / "quorum-draft-small")
    elif case == "other tokenizer":
        source = tmp_path / "quorum-6m"
        model = str(source)
        write_source(tmp_path / "hf", "Llama", byte_level(300, [END]), 64, None)
        export(str(tmp_path / "hf"), source)
    elif case == "base of other tokens":
        base = str(tmp_path / "hf")
        write_source(tmp_path / "hf", "Llama", byte_level(300, [END]), 64, None)
    elif case == "base of another size":
        base = str(tmp_path / "config.json")
        Path(base).write_text(json.dumps({"model_type": "llama", "vocab_size": 300}))
    elif case == "base that is nothing":
        base = str(tmp_path / "nothing")
    elif case == "base quantized":
        base = str(tmp_path / "int8")
        export(str(MODELS / "quorum-draft-small"), Path(base), "int8")
    elif case == "out that is taken":
        (out / "precious").mkdir(parents=True)
    else:
        out = tmp_path / "a b"
    arguments = ["--prompts", str(prompts), "--model", model, "--out", str(out), "--url", url]
    assert distill.main([*arguments, *(["--base", base] if base else []), "--steps", "1"]) == 1
    complaint = capsys.readouterr().err
    assert any(part in complaint for part in REFUSALS[case].split("|")), complaint
    assert "Traceback" not in complaint


def test_another_kind_of_export_cannot_be_gone_on_from(tmp_path: Path) -> None:
    write_source(tmp_path / "hf", "Qwen2", byte_level(300, [END]), 64, None)
    export(str(tmp_path / "hf"), tmp_path / "qwen")
    with pytest.raises(ModelError, match="is an export of a qwen2"):
        distill._base(str(tmp_path / "qwen"), tmp_path / "qwen", load_manifest(tmp_path / "qwen"))
