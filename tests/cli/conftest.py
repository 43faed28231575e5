"""A whole served system in a process of its own, and the command line in another."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.redis_server import free_port
from tests.test_serve import read_until

ROOT = Path(__file__).parents[2]
CLI = [sys.executable, "-m", "services.cli"]
PATIENCE_S = 60.0


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """Of a gateway before the shipped models; the target drafts with all it has."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "services"],
        cwd=ROOT,
        env={**os.environ, "GATEWAY_PORT": str(port), "VERIFIER_DRAFTING": "all"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        read_until(process, '"k": 5')
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


def run(
    *arguments: object, stdin: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command, without a terminal."""
    return subprocess.run(
        [*CLI, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def succeed(*arguments: object, stdin: str = "", **environment: str) -> str:
    """What it prints; it must not complain."""
    done = run(*arguments, stdin=stdin, **environment)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def complaint(code: int, *arguments: object, **environment: str) -> str:
    """The one line on standard error that it ends with."""
    done = run(*arguments, **environment)
    assert done.returncode == code, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("quorum: ")
    return line
