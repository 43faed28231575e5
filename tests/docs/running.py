"""Commands of the documents that are run, and what must come of them."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.docs import checks
from tests.docs.blocks import ROOT, Command, same_shape, words
from tests.docs.conftest import ADDRESS, PATIENCE_S, World
from tests.docs.jobs import Jobs

HAS_BUILDER = all(importlib.util.find_spec(name) for name in ("setuptools", "wheel"))
OFFLINE = "--no-index --no-build-isolation" if HAS_BUILDER else ""
"""For pip: what is asked for is installed here, and perhaps what builds Quorum as well."""


@dataclass(frozen=True)
class Terminal:
    """A block at work: what its commands have started and exported so far."""

    world: World
    served: tuple[str, str]
    jobs: Jobs
    exported: dict[str, str] = field(default_factory=dict)


Check = Callable[[Command, Terminal], None]


def run(
    command: Command,
    terminal: Terminal,
    text: str | None = None,
    code: int = 0,
    patience_s: float = PATIENCE_S,
) -> str:
    """Runs it. All lines that the document shows come, but for their numbers."""
    exports = "".join(f"export {name}={value}\n" for name, value in terminal.exported.items())
    done = terminal.world.run(exports + (text or command.text), patience_s)
    assert done.returncode == code, (done.stdout, done.stderr)
    actual = done.stdout.splitlines()
    for line in command.output:
        if line not in ("", "..."):
            wanted = terminal.world.meant(line)
            assert any(same_shape(wanted, found) for found in actual), (line, done.stdout)
    return done.stdout


def ask(command: Command, terminal: Terminal) -> None:
    """A curl; its answer is JSON, or events that end."""
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    silent = Command(command.text, ())
    answer = run(silent, terminal)
    for text in answer.splitlines() if "data: " in answer else [answer]:
        if text not in ("", "data: [DONE]"):
            told = json.loads(text.removeprefix("data: "))
            assert "error" not in told, told
            for line in command.output:
                shown = re.match(r"\{(\"\w+\": .*?), ", line)
                assert shown is None or shown[1].partition(":")[0].strip('"') in told, line


def bench(command: Command, terminal: Terminal) -> None:
    """With a few requests instead of many."""
    text = command.text.replace("--requests 200", "--requests 4")
    run(command, terminal, text.replace("--seconds 10", "--seconds 1"))


def show(command: Command, terminal: Terminal) -> None:
    """Runs it without a terminal, where it shows other lines than on one."""
    assert run(Command(command.text, ()), terminal) or ">" in command.text


def restructure(command: Command, terminal: Terminal) -> None:
    """Of a folder as the document has it; one graph of the reader's stands for the other way."""
    models = terminal.world.folder / "models"
    shutil.rmtree(models / "shop", ignore_errors=True)
    run(command, terminal)
    assert (models / "shop" / "manifest.json").is_file()


def versions(command: Command, terminal: Terminal) -> None:
    """Of a folder with three versions, of which the second is stable."""
    folder = terminal.world.folder / "models" / "shop"
    if not (folder / "3").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for version in "123":
            (folder / version).symlink_to(ROOT / "models" / "import-next")
        (folder / "labels.json").write_text('{"stable": "2"}')
    run(command, terminal)


def profile(command: Command, terminal: Terminal) -> None:
    """Of one thread and one size of tables, not of all up to 2 GiB."""
    run(command, terminal, f"{command.text} --most 16384 --threads 1")


def export(command: Command, terminal: Terminal) -> None:
    """For the block's later commands; of Quorum's settings, such as there are."""
    variables, _ = words(command.text.removeprefix("export "))
    checks.settings(variables)
    terminal.exported.update(variables)


def services(command: Command, terminal: Terminal) -> None:
    """Each process runs until the block has ended (tests/docs/jobs.py)."""
    for one in filter(None, re.split(r"\s&\s?", command.text + " ")):
        variables, (_, _, name, *parts) = words(one)
        checks.settings({**terminal.exported, **variables})
        checks.process(name, parts)
        terminal.jobs.start(one, terminal.exported)


def serve(command: Command, terminal: Terminal) -> None:
    """With settings, it runs until the block has ended; without, it is what `served` has run."""
    variables, (_, target, *given) = words(command.text)
    checks.settings({**terminal.exported, **variables})
    checks.make(target, given)
    if variables:
        terminal.jobs.start(command.text, terminal.exported)
        return
    url, greeting = terminal.served
    for line in command.output[1:]:
        wanted = line.replace(ADDRESS, url)
        assert line.startswith("...") or wanted in greeting.splitlines(), line


def pip(command: Command, terminal: Terminal) -> None:
    """It finds all that it is asked for, and would install Quorum alone."""
    checks.pip(words(command.text)[1][1:])
    text = command.text.replace("pip install", f"pip install --dry-run {OFFLINE}")
    found = re.findall(r"^Would install (.*)$", run(command, terminal, text), re.MULTILINE)
    assert [name.rpartition("-")[0] for line in found for name in line.split()] <= ["quorum"], found
