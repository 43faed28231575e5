"""Every command and every piece of code in the documents does what they say.

Most are run, against a system that is started for it. What is not run is held to what would read
it, and RULES has the reason. A block or a command of a kind that is not known here fails.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared import served as served_models
from tests.docs import checks
from tests.docs.blocks import (
    DOCUMENTS,
    ROOT,
    Block,
    Command,
    blocks,
    commands,
    same_shape,
    words,
)
from tests.docs.conftest import ADDRESS, REDIS, World

BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
TERMINALS = [block for block in BLOCKS if block.language == "console"]
NO_CODE = {"mermaid": "a picture, which GitHub draws"}
"""Languages of blocks that hold nothing to be run, and why."""
NEEDS_TORCH = re.compile(
    r"models\.train|services\.verifier\.export|models add|bench-llm"
    r"|benchmarks\.(llm|gpu|grow|limits)\b"
)
"""Commands whose modules import what only the extra `reference` brings."""


@dataclass(frozen=True)
class Terminal:
    """A block at work: what its commands have exported so far."""

    world: World
    exported: dict[str, str]
    served: tuple[str, str]


Check = Callable[[Command, Terminal], None]


def run(command: Command, terminal: Terminal, text: str | None = None, code: int = 0) -> str:
    """Runs it. All lines that the document shows come, but for their numbers."""
    exports = "".join(f"export {name}={value}\n" for name, value in terminal.exported.items())
    done = terminal.world.run(exports + (text or command.text))
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


def services(command: Command, terminal: Terminal) -> None:
    """Each process is one that there is, and takes its settings."""
    for one in filter(None, re.split(r"\s&\s?", command.text + " ")):
        variables, (_, _, name, *parts) = words(one)
        checks.settings({**terminal.exported, **variables})
        checks.process(name, parts)


def parse(command: Command, terminal: Terminal) -> None:
    _, (_, _, name, *arguments) = words(command.text)
    checks.module(name, arguments)


def parse_models(command: Command, terminal: Terminal) -> None:
    """What services.cli hands on to the module that does it."""
    _, (_, _, _, _, *arguments) = words(command.text)
    checks.module("models", arguments)


def make(command: Command, terminal: Terminal) -> None:
    variables, (_, target, *given) = words(command.text)
    checks.settings({**terminal.exported, **variables})
    checks.make(target, given)
    if target == "serve":
        greeting = terminal.served[1].splitlines()
        for line in command.output[1:]:
            wanted = line.replace(ADDRESS, terminal.served[0])
            assert line.startswith("...") or wanted in greeting, line


def docker(command: Command, terminal: Terminal) -> None:
    _, (_, *arguments) = words(command.text)
    checks.docker(arguments, terminal.exported)


def script(command: Command, terminal: Terminal) -> None:
    _, (file, *arguments) = words(command.text)
    checks.script(file, arguments)


def pip(command: Command, terminal: Terminal) -> None:
    checks.pip(words(command.text)[1][1:])


def export(command: Command, terminal: Terminal) -> None:
    """For the block's later commands; of Quorum's settings, such as there are."""
    variables, _ = words(command.text.removeprefix("export "))
    checks.settings(variables)
    terminal.exported.update(variables)


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


def plan(command: Command, terminal: Terminal) -> None:
    """By the profile that comes along; to measure one takes minutes."""
    profile = terminal.world.folder / "mine.json"
    if not profile.exists():
        found = sorted((ROOT / "services" / "recommender").rglob("epyc.json"))
        shutil.copy(found[0], profile)
    run(command, terminal)


PYTHON = r"([A-Z_]+=\S+ )*python -m "
RULES: tuple[tuple[str, Check, str], ...] = (
    (r"export ", export, ""),
    (r"curl ", ask, ""),
    (r"(cp|echo \"DOCKER_GID)", run, ""),
    (r"echo .* \| python -m services\.cli chat", show, ""),
    (r"python -m services\.cli (--help|top|plan|models list|dead-letters)", run, ""),
    (r"python -m services\.cli (chat|doctor)", show, ""),
    (r"python -m services\.cli bench", bench, ""),
    (
        r"python -m services\.cli models",
        parse_models,
        "downloads; tests/reference adds and removes",
    ),
    (r"python -m services\.gateway\.keys", run, ""),
    (r"python -m services\.recommender\.restructure", restructure, ""),
    (r"python -m services\.recommender\.versions", versions, ""),
    (r"python -m services\.recommender\.plan", plan, ""),
    (r"python -m services\.recommender\.profile", parse, "measures for minutes"),
    (r"python -m services\.verifier\.export", parse, "downloads; tests/reference exports"),
    (PYTHON + r"services", services, "tests/faults runs all of them over Redis"),
    (r"python -m (benchmarks\.|models)", parse, "takes minutes to hours, and downloads"),
    (
        r"([A-Z_]+=\S+ )*make ",
        make,
        "tests and benchmarks take hours; `serve` is what is asked here",
    ),
    (r"pip install", pip, "what runs this has installed it"),
    (r"docker", docker, "make compose-test runs the stack"),
    (r"deploy/[\w-]+\.sh", script, "make compose-test runs them"),
)
"""By how a command begins, the first that fits; with a reason where it is checked and not run."""


def rule_of(command: Command) -> tuple[str, Check, str]:
    for rule in RULES:
        if re.match(rule[0], command.text):
            return rule
    pytest.fail(f"nothing is known of: {command.text}")


@pytest.mark.parametrize("block", TERMINALS, ids=str)
def test_commands_do_what_the_documents_say(
    block: Block, world: World, served: tuple[str, str]
) -> None:
    terminal = Terminal(world, {}, served)
    for command in commands(block.text):
        if not NEEDS_TORCH.search(command.text):
            rule_of(command)[1](command, terminal)


@pytest.mark.reference
@pytest.mark.parametrize("block", TERMINALS, ids=str)
def test_commands_that_need_torch_take_their_arguments(
    block: Block, world: World, served: tuple[str, str]
) -> None:
    terminal = Terminal(world, {}, served)
    for command in commands(block.text):
        if NEEDS_TORCH.search(command.text):
            rule_of(command)[1](command, terminal)


def test_no_rule_is_for_nothing_and_no_block_of_an_unknown_kind() -> None:
    known = {"console", "python", "http", "yaml", "json", "", *NO_CODE}
    assert {block.language for block in BLOCKS} <= known
    used = {rule_of(command)[0] for block in TERMINALS for command in commands(block.text)}
    assert used == {rule[0] for rule in RULES}
    assert all(reason or check.__name__ not in ("parse", "parse_models", "make", "pip", "docker",
                                                "script", "services")
               for _, check, reason in RULES)  # fmt: skip


@pytest.mark.reference
@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language == "python"], ids=str
)
def test_python_of_the_documents_runs(block: Block, world: World) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", world.meant(block.text)],
        cwd=world.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "http"], ids=str)
def test_requests_of_the_documents_are_answered(
    block: Block, served: tuple[str, str], request: pytest.FixtureRequest
) -> None:
    method, path, body = block.text.strip().split(" ", 2)
    is_own = "shop" in path or "inputs" in json.loads(body)
    url = request.getfixturevalue("shop") if is_own else served[0]
    asked = urllib.request.Request(
        url + path, body.encode(), {"Content-Type": "application/json"}, method=method
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        assert answer.status in (200, 202)
        assert "error" not in json.load(answer)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=str)
def test_yaml_of_the_documents_fits_what_it_is_laid_over(block: Block, tmp_path: Path) -> None:
    checks.compose_file(block.text, tmp_path)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "json"], ids=str)
def test_lists_of_models_in_the_documents_are_read(block: Block, tmp_path: Path) -> None:
    (tmp_path / served_models.FILE_NAME).write_text(block.text)
    names = [target.name for target in served_models.read(tmp_path)]
    assert names == list(json.loads(block.text))


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == ""], ids=str)
def test_trees_of_the_documents_are_there(block: Block) -> None:
    named = re.findall(r"^([\w./-]+/)\s", block.text, re.MULTILINE)
    assert named
    for path in named:
        assert (ROOT / path).is_dir(), path


WRONG = (
    "python -m benchmarks.plans --rouns 3",
    "python -m benchmarks.sorting --quick",
    "python -m benchmarks.nothing",
    "python -m services.nobody",
    "python -m services gateway nobody",
    "python -m services.cli plan nothing",
    "python -m services.recommender.versions models/nothing",
    "curl -s http://127.0.0.1:8080/v1/nothing",
    "curl -s http://127.0.0.1:8080/v1/completions -d 'no JSON'",
    "pip install -c constraints.txt '.[everything]'",
    "make nothing",
    "make serve SPEED=9",
    "GATEWAY_PROT=9000 make serve",
    "export VERIFIER_DRAFTING=sometimes",
    "docker compose up -d --scale nobody=2",
    "docker compose -f docker-compose.yml -f deploy/nothing.yml up",
    "docker compose --profile nobody up",
    "docker stack deploy -c deploy/nothing.yml quorum",
    "docker service scale quorum_nobody=2",
    "docker run quorum",
    "deploy/rolling-update.sh nobody",
    "deploy/nothing.sh",
    "brew install quorum",
)


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_command_is_found(text: str, world: World, served: tuple[str, str]) -> None:
    command = Command(text, ())
    with pytest.raises((Exception, SystemExit, pytest.fail.Exception)) as caught:
        rule_of(command)[1](command, Terminal(world, {}, served))
    assert not isinstance(caught.value, TypeError | AttributeError), caught.value


@pytest.mark.parametrize("output", ["1 answers", "0 answers", "1 answer."])
def test_a_wrong_output_is_found(output: str, world: World, served: tuple[str, str]) -> None:
    terminal = Terminal(world, {}, served)
    run(Command("echo 12   answer", ["1 answer"]), terminal)
    with pytest.raises(AssertionError):
        run(Command("echo 12   answer", [output]), terminal)


def test_addresses_are_those_that_are_replaced() -> None:
    """Another port in a command would be asked as it stands."""
    for block in TERMINALS:
        for command in commands(block.text):
            text = command.text.replace(ADDRESS, "").replace(REDIS, "")
            assert not re.search(r"127\.0\.0\.1:(?!4318)\d+", text), (str(block), command.text)
