"""Adding, listing and removing models: all of them or nothing, and every refusal a sentence."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models import library, shelf
from models.__main__ import main
from shared import served
from shared.errors import ModelError
from shared.lm.manifest import load_manifest
from tests.toy import write_toy, write_toy_tokenizer
from tests.vocabularies import kinds

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`target` and `drafter`, exported somewhere else."""
    root = tmp_path_factory.mktemp("sources")
    for name, noise in (("target", 0.0), ("drafter", 0.05)):
        write_toy_tokenizer(write_toy(root / name, noise=noise))
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "models"


def names(out: Path) -> set[str]:
    return {path.name for path in out.iterdir() if path.is_dir()} if out.exists() else set()


def other_tokens(source: Path, folder: Path) -> Path:
    """The model with two of its tokens exchanged."""
    shutil.copytree(source, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def test_a_target_and_its_draft_models_are_added_together(sources: Path, out: Path) -> None:
    lines: list[str] = []
    added = library.add(
        str(sources / "target"),
        [f"small={sources / 'drafter'}", str(sources / "drafter")],
        out,
        name="mine",
        say=lines.append,
    )
    assert names(out) == {"mine", "small", "drafter"}
    assert [m.name for m in (added.target, *added.drafters)] == ["mine", "small", "drafter"]
    for name in names(out):
        assert set(load_manifest(out / name).files) == {"model.onnx", "tokenizer.json"}
    assert set(added.agreement) == {"small", "drafter"}
    assert 0.2 < added.agreement["small"] < 1
    (target,) = served.read(out)
    assert target == served.Target(
        out / "mine", served.stamp(out / "mine"), drafters=("small", "drafter")
    )
    assert any("no chat template" in remark for remark in added.remarks)
    assert any("testing mine" in line for line in lines)


def test_a_draft_model_that_is_the_target_agrees_with_all_of_it(sources: Path, out: Path) -> None:
    added = library.add(str(sources / "target"), [f"twin={sources / 'target'}"], out)
    assert added.agreement == {"twin": 1.0}


def test_a_model_that_is_there_is_used_as_it_is(sources: Path, out: Path) -> None:
    library.add(str(sources / "drafter"), [], out)
    before = (out / "drafter" / "manifest.json").stat().st_ino
    library.add(str(sources / "target"), [str(out / "drafter")], out)
    assert (out / "drafter" / "manifest.json").stat().st_ino == before
    assert names(out) == {"target", "drafter"}


def test_other_tokens_are_refused_by_the_first_unless_they_are_translated(
    sources: Path, out: Path, tmp_path: Path
) -> None:
    other = other_tokens(sources / "drafter", tmp_path / "other")
    wanted = "other has other tokens than target: token 66 is 'a' in target and 'b' in other"
    with pytest.raises(ModelError, match=f"{wanted}, and 1 more differ. With --translate"):
        library.add(str(sources / "target"), [str(other)], out)
    assert names(out) == set()
    added = library.add(str(sources / "target"), [str(other)], out, translate=True)
    assert added.translated == ["other"]
    (target,) = served.read(out)
    assert target.drafters == target.translated == ("other",)
    assert added.agreement == {}
    assert names(out) == {"target", "other"}


REFUSALS = {
    "absent": "is neither a folder nor a hub id",
    "file": "is neither a folder nor a hub id",
    "code": "brings code of its own",
    "name": "is no name for a model",
    "twice": "two models are to be named target",
    "there": "exists; --force replaces it",
    "foreign": "exists and is no model",
    "damaged": "is damaged",
    "larger tokenizer": "its graph ends at 95",
    "outside": "no name of a file",
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_added_is_refused_and_leaves_everything_as_it_was(
    sources: Path, out: Path, tmp_path: Path, case: str
) -> None:
    source, drafters, name = str(sources / "target"), [], None
    copied = tmp_path / "copied"
    shutil.copytree(sources / "target", copied)
    if case in ("absent", "file"):
        drafters = [str(copied / ("model.onnx" if case == "file" else "x/y/z"))]
    elif case == "code":
        (copied / "config.json").write_text('{"auto_map": {"AutoModel": "evil.Model"}}')
        drafters = [str(copied)]
    elif case == "name":
        name = "../mine"
    elif case == "twice":
        drafters = [str(sources / "target")]
    elif case == "there":
        library.add(source, [], out)
    elif case == "foreign":
        (out / "target" / "precious").mkdir(parents=True)
    elif case == "damaged":
        (copied / "model.onnx").write_bytes(b"x")
        drafters = [str(copied)]
    elif case == "larger tokenizer":
        kinds()["small"].save(str(copied / "tokenizer.json"))
        source, name = str(copied), "larger"
    else:
        content = json.loads((copied / "manifest.json").read_text())
        (tmp_path / "secret").write_text("x")
        content["files"] = {"../secret": library.checksum(tmp_path / "secret")}
        (copied / "manifest.json").write_text(json.dumps(content))
        drafters = [str(copied)]
    before = names(out)
    with pytest.raises(ModelError, match=REFUSALS[case]):
        library.add(source, drafters, out, name=name)
    assert names(out) == before


def test_force_replaces_a_model_as_a_whole(sources: Path, out: Path) -> None:
    library.add(str(sources / "target"), [], out)
    (out / "target" / "old").touch()
    library.add(str(sources / "drafter"), [], out, name="target", force=True)
    assert not (out / "target" / "old").exists()
    graphs = [load_manifest(f).files["model.onnx"] for f in (out / "target", sources / "drafter")]
    assert graphs[0] == graphs[1]
    assert names(out) == {"target"}


def test_a_target_that_is_served_keeps_its_tokens(sources: Path, out: Path, tmp_path: Path) -> None:
    library.add(str(sources / "target"), [], out)
    before = served.read(out)
    other = other_tokens(sources / "target", tmp_path / "other")
    with pytest.raises(ModelError, match="target is served; choose another name"):
        library.add(str(other), [], out, name="target", force=True)
    assert served.read(out) == before


def test_a_full_list_is_refused_before_any_work(sources: Path, out: Path) -> None:
    out.mkdir()
    served.write(out, [served.Target(out / f"m{n}") for n in range(served.MAX_TARGETS)])
    with pytest.raises(ModelError, match="serves 64 targets, the most; remove one first"):
        library.add(str(sources / "target"), [], out)
    assert names(out) == set()


def test_a_move_that_fails_takes_back_those_before_it(out: Path, tmp_path: Path) -> None:
    for folder in (out / "first", tmp_path / "first"):
        folder.mkdir(parents=True)
    (out / "first" / "old").touch()
    with pytest.raises(FileNotFoundError):
        shelf.show([tmp_path / "first", tmp_path / "second"], out)
    assert (out / "first" / "old").exists()
    assert (tmp_path / "first").exists()


def test_listing_and_removing(
    sources: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "models" / "import-next", out / "import-next")
    other = other_tokens(sources / "drafter", tmp_path / "other")
    library.add(str(sources / "target"), [str(sources / "drafter")], out)
    library.add(str(other), [], out)
    entries = {entry.manifest.name: entry for entry in library.list_models(out)}
    assert set(entries) == {"drafter", "other", "target"}
    assert entries["target"].shares_tokens_with == ["drafter"]
    assert entries["other"].shares_tokens_with == []
    assert main(["list", "--out", str(out)]) == 0
    assert "same tokens as drafter; served, with drafter\n" in capsys.readouterr().out
    assert [(t.name, t.drafters) for t in served.read(out)] == [
        ("target", ("drafter",)),
        ("other", ()),
    ]
    assert main(["remove", "drafter", "--out", str(out)]) == 0
    assert [(t.name, t.drafters) for t in served.read(out)] == [("target", ()), ("other", ())]
    assert names(out) == {"target", "other", "import-next"}
    for name in ("drafter", "..", "target/model.onnx"):
        assert main(["remove", name, "--out", str(out)]) == 1
        assert "models: there is no model" in capsys.readouterr().err


def command(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "models", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_addition_leaves_nothing(
    sources: Path, out: Path, how: signal.Signals
) -> None:
    process = command("add", str(sources / "target"), "--out", str(out))
    assert process.stderr is not None
    while "testing target" not in (line := process.stderr.readline()):
        assert line, "it ended early"
    process.send_signal(how)
    process.communicate()
    assert process.returncode != 0
    # What was killed could not clean up; the next one does.
    assert all(name.startswith(".adding-") for name in names(out))
    if how is not signal.SIGKILL:
        assert names(out) == set()
    library.add(str(sources / "drafter"), [], out)
    assert names(out) == {"drafter"}


def test_without_the_hub_a_hub_id_is_refused_with_a_sentence(out: Path) -> None:
    pytest.importorskip("huggingface_hub")
    arguments = ("add", "nobody/nothing-of-the-kind", "--out", str(out))
    process = command(*arguments, HF_HUB_OFFLINE="1", HF_HOME=str(out / "cache"))
    _, complaint = process.communicate()
    assert process.returncode == 1
    assert "nobody/nothing-of-the-kind is no folder here, and could not be fetched" in complaint
    assert "Traceback" not in complaint
