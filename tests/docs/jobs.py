"""Processes that a document's block starts: all of them until they are ready, one question to the
gateway among them, and an end in which each drains."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.docs.blocks import ROOT, words
from tests.docs.conftest import PATIENCE_S, World
from tests.redis_server import free_port

BODY = json.dumps({"prompt": "import os\n", "max_tokens": 8, "temperature": 0}).encode()
WITH_A_GATEWAY = {"serve", "services", "services.gateway"}


class Job:
    """One process that serves, its output in a file beside the clone."""

    def __init__(self, command: Sequence[str], world: World, variables: Mapping[str, str]) -> None:
        self.name = command[-1]
        self._is_made = command[0] == "make"
        self._monitor_port = str(free_port())
        self._log = world.folder.with_name(f"job-{self._monitor_port}.log")
        environment = {**os.environ, **world.environment, **variables}
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=world.folder,
                env={**environment, "QUORUM_MONITOR_PORT": self._monitor_port},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait(self) -> None:
        """Until it is ready, by what a container's health check asks."""
        give_up = time.monotonic() + PATIENCE_S
        environment = {**os.environ, "QUORUM_MONITOR_PORT": self._monitor_port}
        check = [sys.executable, "-m", "shared.check"]
        while subprocess.run(check, cwd=ROOT, env=environment, capture_output=True).returncode:
            assert self._process.poll() is None, self.output
            assert time.monotonic() < give_up, self.output

    def interrupt(self) -> None:
        """SIGTERM; to make, what Ctrl-C sends to it and to what it runs."""
        if self._is_made:
            os.killpg(self._process.pid, signal.SIGINT)
        else:
            self._process.terminate()

    def finish(self) -> None:
        """Its end, once interrupted: nothing of an error, and of make that it was interrupted."""
        code = self._process.wait(PATIENCE_S)
        assert code == (-signal.SIGINT if self._is_made else 0), self.output
        assert "draining" in self.output
        assert not re.search(r"Traceback|CRITICAL|Error \d", self.output), self.output

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Jobs:
    """Those of a block, which share a port for the gateway and a name on the bus."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._port = str(free_port())
        self._given = {"GATEWAY_PORT": self._port, "BUS_KEY_PREFIX": uuid.uuid4().hex}
        self._answer = 200
        self._jobs: list[Job] = []

    def start(self, text: str, exported: Mapping[str, str]) -> None:
        """One command, as the document has it."""
        variables, command = words(text)
        meant = {name: self._world.meant(v) for name, v in {**exported, **variables}.items()}
        if "GATEWAY_KEYS" in meant:
            self._answer = 401
        self._jobs.append(Job(command, self._world, {**meant, **self._given}))

    def finish(self) -> None:
        """Waits for all, asks, and ends all."""
        for job in self._jobs:
            job.wait()
        if any(job.name in WITH_A_GATEWAY for job in self._jobs):
            give_up = time.monotonic() + PATIENCE_S
            while (status := self._ask()) != self._answer:
                assert status == 503, status  # the gateway has not met the verifier yet
                assert time.monotonic() < give_up
        for job in self._jobs:
            job.interrupt()
        for job in self._jobs:
            job.finish()

    def kill(self) -> None:
        for job in self._jobs:
            job.kill()

    def _ask(self) -> int:
        """The status of the answer to a generation."""
        url = f"http://127.0.0.1:{self._port}/v1/completions"
        asked = urllib.request.Request(url, BODY, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code


@contextmanager
def jobs_of(world: World) -> Iterator[Jobs]:
    """None outlives the body."""
    jobs = Jobs(world)
    try:
        yield jobs
    finally:
        jobs.kill()
