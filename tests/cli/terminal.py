"""A command on a terminal of its own: a real pty, read and typed into."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cli.conftest import CLI, PATIENCE_S, ROOT

ROWS, COLUMNS = 40, 120
RETRY_S = 3.0
# The session's terminal, so that Ctrl-C reaches the command as a signal.
OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-Z\\-_=>])")


class Terminal:
    """What the command has written so far, and its keyboard."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master
        self.raw = ""

    @property
    def text(self) -> str:
        """Without colours and movements of the cursor."""
        return _SEQUENCE.sub("", self.raw)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def wait_for(self, *words: str, after: int = 0) -> int:
        """Reads until all of the words are in the text from `after` on; where the last of them
        ends."""
        give_up = time.monotonic() + PATIENCE_S
        while not all(word in self.text[after:] for word in words):
            assert time.monotonic() < give_up, self.text
            assert self._read(), f"ended early: {self.text}"
        return max(self.text.index(word, after) + len(word) for word in words)

    def wait_for_match(self, pattern: str) -> None:
        """Reads until the text has one."""
        give_up = time.monotonic() + PATIENCE_S
        while not re.search(pattern, self.text):
            assert time.monotonic() < give_up, self.text
            assert self._read(), f"ended early: {self.text}"

    def exit_code(self, keys: str = "") -> int:
        """Types the keys and reads to the end. A signal that comes between the prompt and the wait
        for a key is seen with the next key only: then they are typed again."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            self.type(keys)
            while select.select([self._master], [], [], RETRY_S)[0]:
                if not self._read():
                    return self.process.wait(PATIENCE_S)
            assert time.monotonic() < give_up, self.text

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], PATIENCE_S)
        assert ready, self.text
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:  # how Linux tells that the other end is closed
            return False
        self.raw += data.decode(errors="replace")
        return bool(data)


@contextmanager
def terminal(*arguments: object, **environment: str) -> Iterator[Terminal]:
    """Runs the command there; what is left of it ends with the body."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    others = ("NO_COLOR", "COLUMNS", "LINES")  # of the terminal in which the tests run
    kept = {name: value for name, value in os.environ.items() if name not in others}
    process = subprocess.Popen(
        [sys.executable, "-c", OWN_TERMINAL, *CLI, *map(str, arguments)],
        cwd=ROOT,
        env={**kept, "TERM": "xterm-256color", **environment},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)
