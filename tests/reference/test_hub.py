"""Models come from a hub by their ids: what is needed is fetched, once, and what goes wrong is
told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.random_models import END, TEMPLATE, write_source
from tests.reference.hub import Hub, serving
from tests.test_serve import ROOT
from tests.vocabularies import byte_level

pytest.importorskip("huggingface_hub")
pytest.importorskip("torch")
pytestmark = [pytest.mark.reference, pytest.mark.timeout(300)]
WEIGHTS = "model.safetensors"
NOBODY = "http://127.0.0.1:9"
"""Where no hub is."""
NEEDED = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    WEIGHTS,
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Two models, with what repositories hold beside: weights as pickles, code, a card."""
    folder = tmp_path_factory.mktemp("hub")
    same = byte_level(300, [END])
    for name, template in (("target", TEMPLATE), ("draft", None)):
        place = write_source(folder / "maker" / name, "Llama", same, 256, template)
        (place / "pytorch_model.bin").write_bytes(b"\x80\x04")
        (place / "modeling_own.py").write_text("raise SystemExit('code of a stranger')")
        (place / "README.md").write_text("A card.")
    with serving(folder) as hub:
        yield hub


@pytest.fixture(autouse=True)
def _unspoilt(hub: Hub) -> None:
    hub.gated.clear()
    hub.cut_off.clear()
    hub.fetched.clear()


def add(hub: Hub, folder: Path, *arguments: str, url: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with a home of its own: the client looks at its
    settings once."""
    settings = {"HF_ENDPOINT": url or hub.url, "HF_HOME": str(folder / "home")}
    return subprocess.run(
        [sys.executable, "-m", "models", "add", *arguments, "--out", str(folder / "models")],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_a_target_and_its_draft_model_are_fetched_by_their_ids(hub: Hub, tmp_path: Path) -> None:
    done = add(hub, tmp_path, "maker/target", "--drafter", "maker/draft")
    assert done.returncode == 0, done.stderr
    assert "fetching maker/target from the hub" in done.stderr
    assert "target is listed in" in done.stdout
    fetched = {name for name in hub.fetched if name.startswith("maker/target/")}
    kept = {name.removeprefix("maker/target/") for name in fetched}
    assert kept >= NEEDED
    assert all(name.endswith((".json", ".safetensors", ".jinja")) for name in kept)
    # What is here already is not fetched again, and needs no hub.
    hub.fetched.clear()
    done = add(hub, tmp_path, "maker/draft", "--name", "third", url=NOBODY)
    assert done.returncode == 0, done.stderr
    assert hub.fetched == []


@pytest.mark.parametrize("trouble", ["absent", "gated", "cut off", "down"])
def test_what_cannot_be_fetched_is_told_in_a_line_and_nothing_stays(
    hub: Hub, tmp_path: Path, trouble: str
) -> None:
    name, url, said = "maker/target", "", ""
    if trouble == "absent":
        name, said = "maker/nothing", "Repository Not Found"
    elif trouble == "gated":
        hub.gated.add(name)
        said = "gated repo"
    elif trouble == "cut off":
        hub.cut_off.add(f"{name}/{WEIGHTS}")
        said = "without sending complete"
    else:
        url, said = NOBODY, "could not be fetched"
    done = add(hub, tmp_path, name, url=url)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"models: {name} is no folder here, and could not be fetched")
    assert said in line
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "models").iterdir())
