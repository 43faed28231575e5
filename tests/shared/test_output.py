"""Output that nobody reads to its end."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from shared.output import READER_LEFT, quietly

LONG = """
import sys
from shared.output import quietly
def command():
    for number in range({count}):
        print("x" * 100)
    return 3
sys.exit(quietly(command))
"""


def run(count: int) -> tuple[int, bytes]:
    """Exit code and complaints of a command whose reader leaves after the first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", LONG.format(count=count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    if count:
        assert process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    return process.wait(30), error


def test_a_reader_that_leaves_is_no_error() -> None:
    assert run(100_000) == (READER_LEFT, b"")


def test_who_prints_nothing_is_not_disturbed() -> None:
    assert run(0) == (3, b"")


def test_what_is_still_buffered_at_the_end_is_quiet_too() -> None:
    """Less than a buffer, to a reader that has left before: only the last flush fails."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", LONG.format(count=1)], stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (READER_LEFT, b"")


def test_other_errors_pass() -> None:
    def broken() -> int:
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        quietly(broken)
    assert quietly(lambda: 7) == 7
