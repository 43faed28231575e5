"""The real system under a closed loop, every service a process over Redis: how fast, and how much
CPU each process used for it."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import aiohttp

from benchmarks.generation import free_port, process, prompts, scrape

NUM_TOKENS = 64
SECONDS, WARM_UP_S = 20.0, 10.0
"""How long the load runs: measured, after the time before."""
DRAFTERS = ("models/quorum-draft-small", "models/quorum-draft-wide", "ngram,suffix")
LENGTH = "4"
"""Fixed, so that all runs speak of the same rounds."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of the real system: totals over its time."""

    verifiers: int
    at_a_time: int
    seconds: float
    num_tokens: int
    latencies: list[float]
    acceptance: list[int]
    cpu_s: dict[str, float]
    """By service; each drafter by its models."""
    counts: dict[str, float]

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.seconds


@dataclass(frozen=True, slots=True)
class System:
    """Where the real system answers, and where each of its processes tells what it did."""

    url: str
    monitors: dict[str, list[str]]
    redis_port: int

    def totals(self) -> tuple[dict[str, float], dict[str, float]]:
        """CPU seconds by service, and counts of passes, rows and batches so far."""
        cpu: dict[str, float] = {"redis": self._redis_cpu_s()}
        counts: dict[str, float] = {}
        for service, urls in self.monitors.items():
            for url in urls:
                for name, value in ((s.name, s.value) for s in scrape(url)):
                    if name == "process_cpu_seconds_total":
                        cpu[service] = cpu.get(service, 0.0) + value
                    elif name.endswith(("_count", "_sum")):
                        key = f"{service}:{name}"
                        counts[key] = counts.get(key, 0.0) + value
        return cpu, counts

    def _redis_cpu_s(self) -> float:
        with socket.create_connection(("127.0.0.1", self.redis_port)) as connection:
            connection.sendall(b"INFO cpu\r\nQUIT\r\n")
            text = connection.makefile("rb").read().decode()
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        return float(fields["used_cpu_user"]) + float(fields["used_cpu_sys"])


@contextmanager
def system(num_verifiers: int) -> Iterator[System]:
    """Every service a process, over a Redis of its own."""
    server = shutil.which("redis-server")
    if server is None:
        sys.exit("this needs redis-server on PATH")
    redis_port, gateway_port = free_port(), free_port()
    environment = {
        "BUS_URL": f"redis://127.0.0.1:{redis_port}/0",
        "GATEWAY_PORT": str(gateway_port),
        "VERIFIER_NUM_THREADS": "1",
        "VERIFIER_DRAFTING": "all",
        "VOTER_FIXED_LENGTH": LENGTH,
    }
    plan = [("gateway", ""), ("voter", ""), *(("drafter", models) for models in DRAFTERS)]
    plan += [("verifier", "")] * num_verifiers
    monitors: dict[str, list[str]] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        options = ["--port", str(redis_port), "--dir", folder, "--save", "", "--appendonly", "yes"]
        stack.enter_context(process([server, *options], {}))
        for service, models in plan:
            port = free_port()
            own = {**environment, "QUORUM_MONITOR_PORT": str(port)}
            if models:
                own["DRAFTER_MODELS"] = models
            stack.enter_context(process([sys.executable, "-m", f"services.{service}"], own))
            monitors.setdefault(models or service, []).append(f"http://127.0.0.1:{port}")
        running = System(f"http://127.0.0.1:{gateway_port}", monitors, redis_port)
        _until_ready([url for urls in monitors.values() for url in urls])
        yield running


def measure(num_verifiers: int, at_a_time: int) -> Measured:
    """A closed loop of requests on the real system."""
    with system(num_verifiers) as running:
        return asyncio.run(_measure(running, num_verifiers, at_a_time))


async def _measure(running: System, num_verifiers: int, at_a_time: int) -> Measured:
    texts = prompts(64)
    answers: list[tuple[float, float, int, list[int]]] = []

    async def client(http: aiohttp.ClientSession, number: int) -> None:
        while True:
            body = {"prompt": texts[number % len(texts)], "max_tokens": NUM_TOKENS,
                    "temperature": 0, "ignore_eos": True, "return_speculation": True}  # fmt: skip
            started = time.monotonic()
            async with http.post(f"{running.url}/v1/completions", json=body) as response:
                answer = await response.json()
            histogram = answer["metrics"]["speculative_decoding"]["acceptance_histogram"]
            rounds = [n + 1 for n, count in enumerate(histogram) for _ in range(count)]
            answers.append((started, time.monotonic(), NUM_TOKENS, rounds))
            number += 7

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as http:
        clients = [asyncio.create_task(client(http, n)) for n in range(num_verifiers * at_a_time)]
        await asyncio.sleep(WARM_UP_S)
        cpu_before, counts_before = await asyncio.to_thread(running.totals)
        start = time.monotonic()
        await asyncio.sleep(SECONDS)
        cpu, counts = await asyncio.to_thread(running.totals)
        end = time.monotonic()
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    inside = [a for a in answers if start <= a[1] < end]
    return Measured(
        num_verifiers,
        at_a_time,
        end - start,
        sum(a[2] for a in inside),
        [a[1] - a[0] for a in inside],
        [n for a in inside for n in a[3]],
        {name: cpu[name] - cpu_before[name] for name in cpu},
        {name: counts[name] - counts_before.get(name, 0.0) for name in counts},
    )


def _until_ready(urls: Sequence[str]) -> None:
    give_up = time.monotonic() + 60
    for url in urls:
        while True:
            try:
                urllib.request.urlopen(f"{url}/health/ready", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < give_up, f"{url} did not get ready"
                time.sleep(0.1)  # a process that starts sends no word when it listens
