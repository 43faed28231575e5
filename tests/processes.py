"""Services as processes of their own over Redis, to be broken one by one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from shared.bus import Bus, Instance

ROOT = Path(__file__).parent.parent
PATIENCE_S = 40.0


class Process:
    """One `python -m services.NAME`, its output in a file of `logs`."""

    def __init__(self, service: str, environment: Mapping[str, str], log: Path) -> None:
        self.service = service
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"services.{service}"],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    async def terminate(self) -> int:
        """SIGTERM; the exit code once it has drained."""
        self._process.terminate()
        return await asyncio.to_thread(self._process.wait, PATIENCE_S)

    @property
    def output(self) -> str:
        return self._log.read_text()


class Fleet:
    """All processes of a test, on one Redis."""

    def __init__(self, bus: Bus, environment: Mapping[str, str], logs: Path) -> None:
        self.bus = bus
        self._environment = environment
        self._logs = logs
        self._processes: list[Process] = []

    def start(self, service: str, **environment: str) -> Process:
        log = self._logs / f"{len(self._processes)}-{service}.log"
        process = Process(service, {**self._environment, **environment}, log)
        self._processes.append(process)
        return process

    async def live(self, **counts: int) -> list[Instance]:
        """Waits until exactly so many instances of each role are live."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            instances = await self.bus.announce([], 1.0)
            found = {role: sum(i.role == role for i in instances) for role in counts}
            if found == counts:
                return instances
            assert time.monotonic() < give_up, f"{found} instead of {counts}\n{self.outputs()}"
            await asyncio.sleep(0.05)

    def outputs(self) -> str:
        return "\n".join(f"--- {p.service}\n{p.output[-2000:]}" for p in self._processes)

    def end(self) -> None:
        for process in self._processes:
            process.resume()
            process.kill()


@asynccontextmanager
async def fleet(bus: Bus, environment: Mapping[str, str], logs: Path) -> AsyncIterator[Fleet]:
    """A fleet whose processes end with the body."""
    processes = Fleet(bus, environment, logs)
    try:
        yield processes
    finally:
        processes.end()
