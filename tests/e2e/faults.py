"""The faults: how each is brought about and mended, all through the Docker SDK and compose."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from tests.e2e.stack import FILES, ROOT, Stack, environment

SERVICES = (
    *("gateway", "verifier", "voter", "drafter-small", "drafter-wide", "drafter-lookup"),
    "recommender",
)
BEYOND_THE_LEASES_S = 6.0


@dataclass(frozen=True, slots=True)
class Fault:
    """Entering `on` breaks something, leaving it mends it; in between `hold_s` pass."""

    name: str
    on: Callable[[Stack], AbstractContextManager[None]]
    hold_s: float


@contextmanager
def killed(stack: Stack, service: str) -> Iterator[None]:
    container = stack.containers(service)[0]
    container.kill("SIGKILL")
    yield
    container.start()


@contextmanager
def stopped(stack: Stack, service: str) -> Iterator[None]:
    container = stack.containers(service)[0]
    container.stop(timeout=45)
    yield
    container.start()


@contextmanager
def paused(stack: Stack, service: str) -> Iterator[None]:
    container = stack.containers(service)[0]
    container.pause()
    yield
    container.unpause()


@contextmanager
def cut_off(stack: Stack, service: str) -> Iterator[None]:
    container = stack.containers(service)[0]
    network = stack.network()
    network.disconnect(container, force=True)
    yield
    network.connect(container, aliases=[service])


@contextmanager
def restarted(stack: Stack, service: str) -> Iterator[None]:
    stack.containers(service)[0].restart(timeout=10)
    yield


@contextmanager
def out_of_memory(stack: Stack) -> Iterator[None]:
    stack.redis("CONFIG", "SET", "maxmemory", "1")
    yield
    stack.redis("CONFIG", "SET", "maxmemory", "512mb")


@contextmanager
def disk_full(stack: Stack) -> Iterator[None]:
    stack.run("disk", "dd if=/dev/zero of=/data/filler bs=64k 2>/dev/null || true")
    yield
    stack.run("disk", "rm /data/filler")


@contextmanager
def clock_ahead(stack: Stack) -> Iterator[None]:
    """The only verifier that runs is five minutes ahead of all others."""
    stack.up("verifier-ahead", scale={"verifier-ahead": 1})
    for container in stack.containers("verifier"):
        container.stop(timeout=45)
    yield
    for container in stack.containers("verifier"):
        container.start()
    stack.compose("rm", "--stop", "--force", "verifier-ahead")


@contextmanager
def updated(stack: Stack, service: str) -> Iterator[None]:
    files = ":".join(str(file) for file in FILES)
    project = {"COMPOSE_FILE": files, "COMPOSE_PROJECT_NAME": stack.project}
    ran = subprocess.run(
        [ROOT / "deploy" / "rolling-update.sh", service],
        env={**os.environ, **environment(), **project}, cwd=ROOT,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if ran.returncode:
        raise RuntimeError(f"{service}: {ran.stdout}{ran.stderr}")
    yield


def _of(
    break_: Callable[[Stack, str], AbstractContextManager[None]], service: str
) -> Callable[[Stack], AbstractContextManager[None]]:
    return lambda stack: break_(stack, service)


FAULTS = (
    *(Fault(f"{s}: kill -9", _of(killed, s), 2.0) for s in SERVICES),
    *(Fault(f"{s}: stop", _of(stopped, s), 1.0) for s in SERVICES),
    *(Fault(f"{s}: frozen", _of(paused, s), BEYOND_THE_LEASES_S) for s in SERVICES),
    *(Fault(f"{s}: cut off", _of(cut_off, s), BEYOND_THE_LEASES_S) for s in SERVICES),
    Fault("redis: restart", _of(restarted, "redis"), 0.0),
    Fault("redis: kill -9", _of(killed, "redis"), 2.0),
    Fault("redis: frozen for 10 s", _of(paused, "redis"), 10.0),
    Fault("redis: cut off", _of(cut_off, "redis"), BEYOND_THE_LEASES_S),
    Fault("redis: out of memory", out_of_memory, 4.0),
    Fault("redis: disk full", disk_full, 4.0),
    Fault("verifier: clock 5 min ahead", clock_ahead, 6.0),
    *(Fault(f"{s}: rolling update", _of(updated, s), 0.0) for s in SERVICES),
)
