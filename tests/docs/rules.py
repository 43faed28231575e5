"""What is done with each command of the documents, and what is not run, and why."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from tests.docs import checks, running, shortened
from tests.docs.blocks import Command, words
from tests.docs.running import Check, Terminal


class Rule(NamedTuple):
    """By how a command begins. `reason` is why a test of this folder does not run it, but holds it
    to what would read it."""

    begins: str
    check: Check
    reason: str = ""


def parse(command: Command, terminal: Terminal) -> None:
    _, (_, _, name, *arguments) = words(command.text)
    checks.module(name, arguments)


def make(command: Command, terminal: Terminal) -> None:
    variables, (_, target, *given) = words(command.text)
    checks.settings({**terminal.exported, **variables})
    checks.make(target, given)


def docker(command: Command, terminal: Terminal) -> None:
    _, (_, *arguments) = words(command.text)
    checks.docker(arguments, terminal.exported)


def script(command: Command, terminal: Terminal) -> None:
    _, (file, *arguments) = words(command.text)
    checks.script(file, arguments)


LONG = "takes minutes: a thorough test runs it"
IN_CONTAINERS = "needs Docker: tests/e2e/test_documents.py runs it"
VARIABLES = r"([A-Z_]+=\S+ )*"
RULES = (
    Rule(r"export ", running.export),
    Rule(r"curl ", running.ask),
    Rule(r"(cp|echo \"DOCKER_GID)", running.run),
    Rule(r"echo .* \| python -m services\.cli chat", running.show),
    Rule(r"python -m services\.cli (--help|top|plan|models list|dead-letters)", running.run),
    Rule(r"python -m services\.cli (chat|doctor)", running.show),
    Rule(r"python -m services\.cli bench", running.bench),
    Rule(r"python -m (services\.cli )?models add", shortened.add),
    Rule(r"python -m services\.cli models remove", shortened.remove),
    Rule(r"python -m models\.train\.distill", shortened.distill),
    Rule(r"python -m services\.gateway\.keys", running.run),
    Rule(r"python -m services\.recommender\.restructure", running.restructure),
    Rule(r"python -m services\.recommender\.versions", running.versions),
    Rule(r"python -m services\.recommender\.plan", running.run),
    Rule(r"python -m services\.recommender\.profile", running.profile),
    Rule(r"python -m services\.verifier\.export", shortened.export),
    Rule(VARIABLES + r"python -m services", running.services),
    Rule(r"python -m benchmarks\.recommender --large", parse, "fills 16 GB of memory"),
    Rule(r"python -m benchmarks\.(\w*gpu|recommender|plans|sorting|limits|simulate)", parse, LONG),
    Rule(r"python -m benchmarks\.", shortened.benchmark),
    Rule(VARIABLES + r"make serve", running.serve),
    Rule(r"make test", make, "it is what runs this"),
    Rule(r"make bench", make, "takes hours"),
    Rule(r"pip install", running.pip),
    Rule(r"docker compose .*deploy/gpu\.yml", docker, "needs a GPU"),
    Rule(
        r"docker compose .*deploy/observability\.yml",
        docker,
        "its images could not be pulled where this was written",
    ),
    Rule(r"docker", docker, IN_CONTAINERS),
    Rule(r"deploy/[\w-]+\.sh", script, IN_CONTAINERS),
)
"""The first that fits is a command's."""


def rule_of(command: Command) -> Rule:
    for rule in RULES:
        if re.match(rule.begins, command.text):
            return rule
    pytest.fail(f"nothing is known of: {command.text}")
