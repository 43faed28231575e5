"""Every command and every piece of code in the documents does what they say.

Most are run, against a system that is started for it. What is not run is held to what would read
it, and tests/docs/rules.py has the reason. A block or a command of a kind that is not known fails.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import served as served_models
from tests.docs import checks, rules
from tests.docs.blocks import DOCUMENTS, ROOT, Block, Command, blocks, commands
from tests.docs.conftest import ADDRESS, OTLP, REDIS, World
from tests.docs.jobs import jobs_of
from tests.docs.rules import RULES, rule_of
from tests.docs.running import Terminal, run
from tests.docs.shortened import LONG_S, SHORTER, SMALLER, long_benchmark

BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
TERMINALS = [block for block in BLOCKS if block.language == "console"]
NO_CODE = {"mermaid": "a picture, which GitHub draws"}
"""Languages of blocks that hold nothing to be run, and why."""
HEAVY = re.compile(
    r"models\.train|services\.verifier\.export|models add|bench-llm|benchmarks\."
    r"|install .*(\.\[(export|train)\]|openai)"
)
"""Commands that take what only the extra `reference` brings, or long."""


SLOW = re.compile(r"models add|models\.train")
"""Of those, what exports or trains: tests/reference does both in CI."""


def is_heavy(block: Block) -> bool:
    return bool(HEAVY.search(block.text))


def heavy() -> Iterator[object]:
    for block in filter(is_heavy, TERMINALS):
        marks = [pytest.mark.thorough] if SLOW.search(block.text) else []
        yield pytest.param(block, id=str(block), marks=marks)


def perform(block: Block, world: World, served: tuple[str, str]) -> None:
    """All commands of a block, in their order; what they start ends with it."""
    asked = "POST /v1/completions"
    before = len(world.collector.named(asked))
    with jobs_of(world) as jobs:
        terminal = Terminal(world, served, jobs)
        for command in commands(block.text):
            rule_of(command).check(command, terminal)
        jobs.finish()
    is_traced = len(world.collector.named(asked)) > before
    assert is_traced == (OTLP in block.text)


@pytest.mark.parametrize("block", [b for b in TERMINALS if not is_heavy(b)], ids=str)
def test_commands_do_what_the_documents_say(
    block: Block, world: World, served: tuple[str, str]
) -> None:
    perform(block, world, served)


@pytest.mark.reference
@pytest.mark.timeout(300)
@pytest.mark.parametrize("block", list(heavy()))
def test_commands_on_models_do_what_the_documents_say(
    block: Block, world: World, served: tuple[str, str]
) -> None:
    perform(block, world, served)


LONG = {
    command.text: command
    for block in TERMINALS
    for command in commands(block.text)
    if rule_of(command).reason == rules.LONG
}


@pytest.mark.reference
@pytest.mark.thorough
@pytest.mark.timeout(LONG_S)
@pytest.mark.parametrize("text", LONG)
def test_commands_that_take_minutes_run(text: str, world: World, served: tuple[str, str]) -> None:
    with jobs_of(world) as jobs:
        long_benchmark(LONG[text], Terminal(world, served, jobs))


def test_no_rule_is_for_nothing_and_no_block_of_an_unknown_kind() -> None:
    known = {"console", "python", "http", "yaml", "json", "", *NO_CODE}
    assert {block.language for block in BLOCKS} <= known
    texts = [command for block in TERMINALS for command in commands(block.text)]
    assert {rule_of(command).begins for command in texts} == {rule.begins for rule in RULES}
    parsed = (rules.parse, rules.make, rules.docker, rules.script)
    assert {rule.begins for rule in RULES if rule.reason} == {
        rule.begins for rule in RULES if rule.check in parsed
    }
    for written in (*SHORTER, *SMALLER):
        assert any(written in command.text for command in texts), written


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
    problems = (Exception, SystemExit, pytest.fail.Exception)
    with jobs_of(world) as jobs, pytest.raises(problems) as caught:
        rule_of(command).check(command, Terminal(world, served, jobs))
    assert not isinstance(caught.value, TypeError | AttributeError), caught.value


@pytest.mark.parametrize("output", ["1 answers", "0 answers", "1 answer."])
def test_a_wrong_output_is_found(output: str, world: World, served: tuple[str, str]) -> None:
    with jobs_of(world) as jobs:
        terminal = Terminal(world, served, jobs)
        run(Command("echo 12   answer", ["1 answer"]), terminal)
        with pytest.raises(AssertionError):
            run(Command("echo 12   answer", [output]), terminal)


def test_addresses_are_those_that_are_replaced() -> None:
    """Another port in a command would be asked as it stands."""
    for block in TERMINALS:
        for command in commands(block.text):
            text = command.text.replace(ADDRESS, "").replace(REDIS, "").replace(OTLP, "")
            assert not re.search(r"127\.0\.0\.1:\d+", text), (str(block), command.text)
