"""What is held of commands that a test does not run: their words, against what would read them."""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.__main__ import PARTS, chosen
from shared.config import load
from tests.docs.blocks import ROOT
from tests.test_docs import CONFIGS

COMPOSE = "docker-compose.yml"
SWARM = "deploy/swarm.yml"
OF_SERVICES = {"up", "ps", "logs", "stop", "start", "restart", "build", "port", "exec",
               "run"}  # fmt: skip
"""Subcommands of docker compose whose words are services; of three only the first is one."""
FIRST_ALONE = {"exec", "port", "run"}
WITH_VALUE = ("--scale", "--index", "--tail", "-v")
PATIENCE_S = 60


def settings(variables: Mapping[str, str]) -> None:
    """They are settings, with values in bounds; a password's file need not be here."""
    given = {name: value for name, value in variables.items() if name != "BUS_PASSWORD_FILE"}
    for cls in CONFIGS:
        load(cls, given)


class _Parsed(Exception):
    """The arguments have been read."""


def module(name: str, arguments: Sequence[str]) -> None:
    """A module's own parser takes the arguments; it ends before it works."""
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"there is no module {name}"
    if spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{name}.__main__")
        assert spec is not None, f"{name} is no command"
    assert spec.origin is not None
    if not re.search(r"argparse|command_line", Path(spec.origin).read_text()):
        assert not arguments, f"{name} takes no arguments"
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: Any, args: Any = None, namespace: Any = None) -> None:
        parse(parser, args, namespace)
        raise _Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
        patch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(_Parsed):
            importlib.import_module(spec.name).main()


def process(name: str, parts: Sequence[str]) -> None:
    """`python -m services PART ...` and `python -m services.PART` are of parts that there are."""
    if name == "services":
        chosen(list(parts))
    else:
        assert name.removeprefix("services.") in PARTS, name
        assert not parts, parts


def pip(arguments: Sequence[str]) -> None:
    """`pip install` of extras that there are, with the constraints."""
    assert arguments[0] == "install"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    rest = list(arguments[1:])
    while rest:
        word = rest.pop(0)
        if word == "-c":
            assert rest.pop(0) == "constraints.txt"
        elif match := re.fullmatch(r"\.\[([\w,-]+)\]", word):
            assert set(match[1].split(",")) <= set(extras), word
        else:
            assert f"{word}==" in (ROOT / "constraints.txt").read_text(), word


def make(target: str, variables: Sequence[str]) -> None:
    """There is the target, and the modules that it would run take what they are given."""
    asked = ["make", "--dry-run", "--always-make", "--no-print-directory", target, *variables]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    runs = re.findall(r"^.* -m ((?:benchmarks|services)\S*)(.*)$", done.stdout, re.MULTILINE)
    for name, arguments in runs:
        module(name, shlex.split(arguments))
    wanted = {variable.partition("=")[0] for variable in variables}
    assert wanted <= set(re.findall(r"^([A-Z_]+) \?=", (ROOT / "Makefile").read_text(), re.M))


def docker(arguments: Sequence[str], variables: Mapping[str, str]) -> None:
    """Files, services, profiles and options are there, and the files are ones that docker reads."""
    if arguments[0] == "compose":
        _compose(list(arguments[1:]), variables)
    elif arguments[:3] == ["stack", "deploy", "-c"]:
        assert arguments[4:] == ["quorum"]
        _ask("docker", "stack", "config", "-c", str(ROOT / arguments[3]), **variables)
    else:
        _swarm(arguments)


def script(file: str, arguments: Sequence[str]) -> None:
    """A shell script of the repository that can be read, of services that there are."""
    path = ROOT / file
    assert path.stat().st_mode & 0o111, f"{file} cannot be executed"
    subprocess.run(["bash", "-n", path], check=True, timeout=PATIENCE_S)
    assert set(arguments) <= set(_services([COMPOSE])), arguments


def compose_file(text: str, folder: Path) -> None:
    """What is to be laid over docker-compose.yml fits it."""
    added = yaml.safe_load(text)
    assert set(added["services"]) <= set(_services([COMPOSE]))
    file = folder / "override.yml"
    file.write_text(text)
    files = [part for name in (ROOT / COMPOSE, file) for part in ("-f", str(name))]
    _ask("docker", "compose", *files, "config", "--quiet")


def _compose(rest: list[str], variables: Mapping[str, str]) -> None:
    files, profiles, projects = [], [], []
    while rest[0].startswith("-"):
        option, value = rest.pop(0), rest.pop(0)
        {"-f": files, "--profile": profiles, "-p": projects}[option].append(value)
    files = files or [COMPOSE]
    services = _services(files)
    for profile in profiles:
        assert any(profile in service.get("profiles", []) for service in services.values())
    given = [part for name in files for part in ("-f", str(ROOT / name))]
    _ask("docker", "compose", *given, "config", "--quiet", **variables)
    command, *words = rest
    positional = _positional(command, words, services)
    if command == "cp":
        (service,) = (word.partition(":")[0] for word in positional if ":" in word)
        assert service in services
    elif command in OF_SERVICES:
        named = positional[:1] if command in FIRST_ALONE else positional
        assert set(named) <= set(services), f"{named} are no services of {files}"
    else:
        assert not positional, positional


def _positional(command: str, rest: list[str], services: Mapping[str, object]) -> list[str]:
    """The words that are no options; options are such that docker compose has."""
    options, found = _help("compose", command), []
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            found.append(word)
            if command in ("exec", "run"):
                return [*found, *rest]  # what is run within
            continue
        described = re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", options)
        assert described or not options, f"docker compose {command} has no {word}"
        if word in WITH_VALUE:
            value = rest.pop(0)
            if word == "--scale":
                service, _, number = value.partition("=")
                assert service in services, value
                assert number.isdecimal(), value
    return found


def _swarm(arguments: Sequence[str]) -> None:
    text = (ROOT / SWARM).read_text()
    services = {f"quorum_{name}" for name in yaml.safe_load(text)["services"]}
    match arguments:
        case ["node", "update", "--label-add", label, "NODE"]:
            assert label.partition("=")[0] in text
        case ["service", "scale", scaled]:
            assert scaled.partition("=")[0] in services
            assert scaled.partition("=")[2].isdecimal()
        case ["service", "update", "--force", service]:
            assert service in services
        case _:
            pytest.fail(f"nothing is known of docker {shlex.join(arguments)}")


def _services(files: Sequence[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name in files:
        for service, content in yaml.safe_load((ROOT / name).read_text())["services"].items():
            found.setdefault(service, {}).update(content)
    return found


@functools.cache
def _has_docker() -> bool:
    """Whether there is docker's client, with compose; no engine is asked."""
    if shutil.which("docker") is None:
        return False
    asked = ["docker", "compose", "version"]
    return subprocess.run(asked, capture_output=True, timeout=PATIENCE_S).returncode == 0


@functools.cache
def _help(*command: str) -> str:
    """What docker says of it; empty without docker."""
    if not _has_docker():
        return ""
    asked = ["docker", *command, "--help"]
    return subprocess.run(
        asked, check=True, capture_output=True, text=True, timeout=PATIENCE_S
    ).stdout


@functools.cache
def _ask(*command: str, **variables: str) -> None:
    """It must not complain; where there is no docker, the e2e tests run the same files."""
    if not _has_docker():
        return
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent", **variables}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
