"""A process from start to exit code: a real one over a real Redis, and `supervise` by itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.bus import connect
from shared.bus.memory import MemoryBus
from shared.config import BusConfig
from shared.errors import BusError
from shared.generation import Sampling
from shared.messages import GenerateRequest, Tokens
from shared.runner import supervise
from shared.service import Service, background
from shared.topics import generate_requests
from tests.redis_server import RedisServer, free_port
from tests.toy import write_toy

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0


class Process:
    """One `python -m services.NAME` with a monitor, its stderr in a file."""

    def __init__(self, service: str, log: Path, environment: dict[str, str]) -> None:
        self.port = free_port()
        self.environment = {
            **os.environ,
            "QUORUM_MONITOR_PORT": str(self.port),
            "QUORUM_LOG_FORMAT": "json",
            **environment,
        }
        self._log = log
        with log.open("wb") as errors:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", f"services.{service}"],
                cwd=ROOT,
                env=self.environment,
                stderr=errors,
            )

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()

    def wait_until_ready(self) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while True:
            assert self.popen.poll() is None, self.errors
            assert time.monotonic() < give_up, self.errors
            try:
                if self.get("/health/ready")[0] == 200:
                    return
            except OSError:
                time.sleep(0.05)

    def end(self, number: int) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(PATIENCE_S)

    @property
    def errors(self) -> str:
        return self._log.read_text()


Start = Callable[..., Process]


@pytest.fixture
def start(redis_server: RedisServer, tmp_path: Path) -> Iterator[Start]:
    """Starts processes on the shared Redis, in a namespace of this test; they end with it."""
    processes: list[Process] = []
    bus = {"BUS_URL": redis_server.url, "BUS_KEY_PREFIX": uuid.uuid4().hex}

    def start(service: str = "voter", **environment: str) -> Process:
        log = tmp_path / f"{len(processes)}.log"
        processes.append(Process(service, log, {**bus, **environment}))
        return processes[-1]

    yield start
    for process in processes:
        process.popen.kill()
        process.popen.wait()


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m services.voter` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "services.voter", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_a_process_tells_its_health_and_metrics_and_ends_on_sigterm(start: Start) -> None:
    process = start()
    process.wait_until_ready()
    assert process.get("/health/live") == (200, '{"live": true}')
    status, body = process.get("/health/ready")
    readiness = json.loads(body)
    assert (status, readiness["ready"]) == (200, True)
    assert list(readiness["services"].values()) == ["ready"]
    status, metrics = process.get("/metrics")
    assert status == 200
    assert "# TYPE" in metrics
    assert 'service_ready{name="voter",role="voter"} 1.0' in metrics
    assert "event_loop_lag_seconds_bucket" in metrics
    assert process.get("/other")[0] == 404
    checked = run("--check", QUORUM_MONITOR_PORT=str(process.port))
    assert (checked.returncode, checked.stderr) == (0, "")
    assert json.loads(checked.stdout) == readiness
    assert process.end(signal.SIGTERM) == 0
    assert "Traceback" not in process.errors


def test_a_process_drains_on_sigint_and_its_log_parses(start: Start) -> None:
    process = start()
    process.wait_until_ready()
    assert process.end(signal.SIGINT) == 0
    lines = [json.loads(line) for line in process.errors.splitlines()]
    assert "draining" in [line["message"] for line in lines]
    assert all(line["request_id"] == "-" for line in lines)


async def test_a_drained_verifier_finishes_the_request_at_hand(
    start: Start, redis_server: RedisServer, tmp_path: Path
) -> None:
    write_toy(tmp_path / "target")
    process = start(
        "verifier",
        VERIFIER_MODEL=str(tmp_path / "target"),
        VERIFIER_NUM_THREADS="1",
        VERIFIER_SELF_TEST="false",
    )
    await asyncio.to_thread(process.wait_until_ready)
    bus = connect(BusConfig(url=redis_server.url, key_prefix=process.environment["BUS_KEY_PREFIX"]))
    (instance,) = await bus.announce([], 1.0)
    async with bus.receive("client") as replies:
        request = GenerateRequest(
            "r-1", "client", [3, 4, 5], 40, Sampling(temperature=0.0), [], time.time() + 60
        )
        await bus.publish(generate_requests(instance.name), request)
        first = await asyncio.wait_for(anext(replies), PATIENCE_S)
        assert isinstance(first, Tokens)
        assert await asyncio.to_thread(process.end, signal.SIGTERM) == 0
        num_tokens = len(first.tokens)
        while isinstance(reply := await asyncio.wait_for(anext(replies), 5), Tokens):
            num_tokens += len(reply.tokens)
    assert reply.num_tokens == num_tokens == 40  # type: ignore[attr-defined]
    await bus.close()


def test_a_bad_setting_ends_the_start_with_code_2_and_one_sentence() -> None:
    for variable in ("VOTER_QUORUM", "VOTER_TYPO"):
        ended = run(**{variable: "wrong"})
        assert ended.returncode == 2
        assert ended.stderr.startswith(f"quorum: {variable}")
        assert ended.stderr.count("\n") == 1


def test_an_occupied_monitor_port_is_a_bad_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = run(QUORUM_MONITOR_PORT=str(port), BUS_URL="memory://")
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"quorum: QUORUM_MONITOR_PORT={port} on 127.0.0.1: ")
    assert ended.stderr.count("\n") == 1


def test_an_absent_bus_ends_the_process_with_code_1_and_one_sentence() -> None:
    ended = run(BUS_URL=f"redis://127.0.0.1:{free_port()}/0", BUS_RETRY_S="0.1")
    assert ended.returncode == 1
    assert "quorum: voter voter: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_check_tells_that_nothing_runs() -> None:
    checked = run("--check", QUORUM_MONITOR_PORT=str(free_port()))
    assert checked.returncode == 1
    assert checked.stderr.startswith("not ready: ")
    assert checked.stderr.count("\n") == 1


def test_check_without_a_monitor_port_names_the_setting() -> None:
    checked = run("--check")
    assert checked.returncode == 2
    assert "QUORUM_MONITOR_PORT" in checked.stderr


class Idle(Service):
    """Does nothing until drained; then waits to be let go."""

    def __init__(self, name: str, history: list[str], failure: Exception | None = None) -> None:
        config = BusConfig()
        super().__init__("idle", name, MemoryBus(config), config)
        self.history = history
        self.may_fail, self.may_end = asyncio.Event(), asyncio.Event()
        self.may_end.set()
        self._failure = failure

    async def serve(self) -> None:
        async with background(self._fail()):
            await self.announce({})
            try:
                await self.draining.wait()
                self.history.append(f"{self.name} drains")
                await self.may_end.wait()
                self.history.append(f"{self.name} ends")
            except asyncio.CancelledError:
                self.history.append(f"{self.name} cancelled")
                raise

    async def _fail(self) -> None:
        await self.may_fail.wait()
        if self._failure is None:
            self.draining.set()
        else:
            raise self._failure


async def test_services_drain_one_after_the_other() -> None:
    history: list[str] = []
    services = [Idle(name, history) for name in "abc"]
    stopped, ready = asyncio.Event(), asyncio.Event()
    supervision = asyncio.create_task(supervise(services, stopped, 30.0, ready.set))
    await asyncio.wait_for(ready.wait(), 5)
    assert all(service.ready.is_set() for service in services)
    stopped.set()
    assert await asyncio.wait_for(supervision, 5) == 0
    assert history == [f"{name} {what}" for name in "abc" for what in ("drains", "ends")]


async def test_what_does_not_drain_in_time_is_cancelled() -> None:
    history: list[str] = []
    services = [Idle(name, history) for name in "ab"]
    services[0].may_end.clear()
    stopped, ready = asyncio.Event(), asyncio.Event()
    supervision = asyncio.create_task(supervise(services, stopped, 0.1, ready.set))
    await asyncio.wait_for(ready.wait(), 5)
    stopped.set()
    assert await asyncio.wait_for(supervision, 5) == 0
    assert history[0] == "a drains"
    assert "a cancelled" in history
    assert "a ends" not in history


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (BusError("no bus"), "quorum: idle b: no bus\n"),
        (ZeroDivisionError("a fault"), ""),
        (None, ""),
    ],
)
async def test_a_service_that_ends_early_ends_all_with_code_1(
    failure: Exception | None,
    said: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    history: list[str] = []
    services = [Idle("a", history), Idle("b", history, failure), Idle("c", history)]
    ready = asyncio.Event()
    supervision = asyncio.create_task(supervise(services, asyncio.Event(), 30.0, ready.set))
    await asyncio.wait_for(ready.wait(), 5)
    services[1].may_fail.set()
    assert await asyncio.wait_for(supervision, 5) == 1
    assert {"a cancelled", "c cancelled"} <= set(history)
    assert capsys.readouterr().err == said
    assert said or services[1].instance_id in caplog.text


async def test_a_service_that_fails_at_once_ends_all_before_they_are_ready() -> None:
    services = [Idle("a", []), Idle("b", [], BusError("no bus"))]
    services[1].may_fail.set()
    assert await asyncio.wait_for(supervise(services, asyncio.Event(), 30.0), 5) == 1
