"""The output of a command: a reader that leaves early (`| head`) ends it without a word."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

READER_LEFT = 141
"""What shells call the end by SIGPIPE."""


def quietly(command: Callable[[], int]) -> int:
    """The command's exit code, READER_LEFT if nobody reads what it prints."""
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered would fail once more at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_LEFT
