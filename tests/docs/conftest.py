"""What the documents talk to: a served system, one with a ranking model of the reader's own, a
Redis server with a dead letter, and a folder that looks like a clone and may be written to."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from shared.bus import connect
from shared.config import BusConfig
from shared.generation import Sampling
from shared.messages import GenerateRequest
from shared.topics import generate_requests
from tests.collector import Collector, collecting
from tests.docs.blocks import ROOT
from tests.recommender.test_source import write_dense
from tests.redis_server import RedisServer, free_port
from tests.test_serve import read_until

ADDRESS, REDIS = "http://127.0.0.1:8080", "redis://127.0.0.1:6379/0"
OTLP = "http://127.0.0.1:4318"
"""As the documents have them."""
LETTER = "1764218000123-0"
PATIENCE_S = 60
CURL = 'curl() { command curl --silent --show-error --fail-with-body "$@"; }\n'
DIM = 4
NOT_LINKED = ("benchmarks", "build", "models", "quorum.egg-info")
"""What a clone's commands write to, or make."""
COMPILED = shutil.ignore_patterns("__pycache__")


@dataclass(frozen=True)
class World:
    """Where a document's commands are run, and what their addresses mean there."""

    folder: Path
    meanings: dict[str, str]
    environment: dict[str, str]
    collector: Collector

    def meant(self, text: str) -> str:
        for written, meaning in self.meanings.items():
            text = text.replace(written, meaning)
        return text

    def run(self, command: str, patience_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        """In a shell, as a reader would, but for the addresses; curl fails where it is refused."""
        return subprocess.run(
            ["bash", "-c", CURL + self.meant(command)],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience_s,
        )


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like one in which `make serve` has run, and may be written to."""
    folder = tmp_path_factory.mktemp("clone")
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in NOT_LINKED:
            (folder / path.name).symlink_to(path)
    (folder / ".env.example").symlink_to(ROOT / ".env.example")
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks", ignore=COMPILED)
    (folder / "models").mkdir()
    as_shipped(folder)
    install(folder)
    return folder


def install(clone: Path) -> Path:
    """An environment where the documents have it, which is this one; its folder of commands."""
    tools = clone / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name, module in (("python", ""), ("pip", "-m pip")):
        tool = tools / name
        tool.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {module} "$@"\n')
        tool.chmod(0o755)
    (clone / ".venv" / ".serve").touch()
    return tools


def as_shipped(clone: Path) -> None:
    """The clone's models are the shipped ones, and the list of them its own."""
    for path in (clone / "models").iterdir():
        if path.is_symlink() or path.is_file():
            path.unlink()
        else:
            shutil.rmtree(path)
    for path in (ROOT / "models").iterdir():
        (clone / "models" / path.name).symlink_to(path)
    served = clone / "models" / "served.json"
    served.unlink()
    shutil.copy(ROOT / "models" / "served.json", served)


@contextmanager
def system(folder: Path, *command: str, **environment: str) -> Iterator[tuple[str, str]]:
    """Something that serves, with a gateway: its address, and what it printed."""
    port = free_port()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "GATEWAY_PORT": str(port), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        yield f"http://127.0.0.1:{port}", read_until(process, '"k": 5')
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="module")
def served(clone: Path) -> Iterator[tuple[str, str]]:
    """All services, with the shipped models, as the documents start them."""
    with system(clone, "make", "serve") as found:
        yield found


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ranking model as docs/recommender.md has one: tables `user` and `item`, a dense graph."""
    folder = tmp_path_factory.mktemp("ranking") / "source"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, num_rows in (("user", 16), ("item", 2000)):
        np.save(folder / f"{name}.npy", rng.standard_normal((num_rows, DIM), np.float32))
    write_dense(folder / "dense.onnx", {"user": DIM, "item": DIM})
    return folder


@pytest.fixture(scope="module")
def shop(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway before that model, restructured as the document says."""
    folder = tmp_path_factory.mktemp("served") / "shop"
    command = [sys.executable, "-m", "services.recommender.restructure", source, folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE_S)
    given = {"RECOMMENDER_MODEL": str(folder), "GATEWAY_RECOMMENDER": "shop"}
    serve = (sys.executable, "-m", "services", "gateway", "recommender")
    with system(ROOT, *serve, **given) as (url, _):
        yield url


@pytest.fixture(scope="module")
def letter(redis_server: RedisServer) -> tuple[dict[str, str], str]:
    """The variables of a bus on which a request was put aside, and that letter's id."""
    config = BusConfig(url=redis_server.url, key_prefix=uuid.uuid4().hex, retry_s=5)

    async def bury() -> str:
        bus, topic = connect(config), generate_requests("quorum-6m")
        await bus.publish(topic, GenerateRequest("3f2a9c41", "gone", [1], 5, Sampling(), [], 1.0))
        async with bus.subscribe(topic) as subscription, asyncio.timeout(PATIENCE_S):
            delivery = await subscription.next()
            await delivery.bury("given up after 5 deliveries")
            await delivery.ack()
        letters = [found async for found in bus.dead_letters()]
        await bus.close()
        return letters[0].letter_id

    return {"BUS_KEY_PREFIX": config.key_prefix}, asyncio.run(bury())


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """One that runs beside the tests, in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    running = collecting()
    try:
        yield asyncio.run_coroutine_threadsafe(running.__aenter__(), loop).result(PATIENCE_S)
    finally:
        ended = asyncio.run_coroutine_threadsafe(running.__aexit__(None, None, None), loop)
        ended.result(PATIENCE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def world(
    clone: Path,
    served: tuple[str, str],
    source: Path,
    letter: tuple[dict[str, str], str],
    redis_server: RedisServer,
    collector: Collector,
) -> World:
    """The clone, beside a running system."""
    variables, letter_id = letter
    meanings = {
        ADDRESS: served[0],
        REDIS: redis_server.url,
        OTLP: collector.url,
        "SOURCE": str(source),
        LETTER: letter_id,
    }
    environment = {
        **variables,
        "QUORUM_URL": served[0],
        "GATEWAY_PORT": str(free_port()),
        "PATH": f"{clone / '.venv' / 'bin'}:{os.environ['PATH']}",
    }
    return World(clone, meanings, environment, collector)
