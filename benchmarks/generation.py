"""python -m benchmarks.generation: tokens per second of the shipped family, through the REST door.

Four set-ups side by side in one run: embedded and over Redis (each service a process), with all
drafters and with none; at 1 and at 8 requests at a time. Set-ups take turns, so that a machine
whose speed drifts hits all of them; medians and spread are reported.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample as Sampled

from models.train.corpus import library_files

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
NUM_PROMPTS, PROMPT_CHARS = 16, 240
START_TIMEOUT_S = 60.0
SPECULATION = {"all drafters": {}, "none": {"VERIFIER_MAX_SPECULATION_LENGTH": "0"}}


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: a set-up at a number of requests at a time."""

    bus: str
    drafters: str
    concurrency: int
    tokens_per_s: float
    mean_acceptance_length: float
    outside_forward_pass: float
    """Share of the wall time in which no target pass ran."""
    pass_ms: float
    """Mean duration of a target pass."""
    draft_wait_ms: float
    """Mean time from asking for a draft to having it; 0 where none was asked for."""


def prompts(count: int) -> list[str]:
    """Beginnings of held-out source files."""
    texts = [file.text for file in library_files() if file.is_held_out]
    long = [text for text in texts if len(text) > 4 * PROMPT_CHARS]
    return [text[PROMPT_CHARS : 2 * PROMPT_CHARS] for text in long[:count]]


def scrape(url: str) -> Iterator[Sampled]:
    """What a process's metrics say now, name by name and label by label."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        for family in text_string_to_metric_families(response.read().decode()):
            yield from family.samples


@contextmanager
def process(arguments: Sequence[str], environment: dict[str, str]) -> Iterator[None]:
    """A process for the time of the body, ended as an operator would end it."""
    with tempfile.TemporaryFile() as log:
        running = subprocess.Popen(
            arguments, cwd=ROOT, env={**os.environ, **environment}, stdout=log, stderr=log
        )
        try:
            yield
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait(60)


@contextmanager
def system(bus: str, environment: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Base URLs of the gateway and of the verifier's metrics."""
    gateway, monitor, redis = (free_port() for _ in range(3))
    environment = {**environment, "GATEWAY_PORT": str(gateway)}
    url = f"http://127.0.0.1:{gateway}"
    with ExitStack() as stack:
        if bus == "embedded":
            stack.enter_context(process([sys.executable, "-m", "services"], environment))
            yield url, url
            return
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        server = shutil.which("redis-server")
        if server is None:
            sys.exit("the benchmark over Redis needs redis-server on PATH")
        options = ["--port", str(redis), "--dir", folder, "--save", "", "--appendonly", "yes"]
        stack.enter_context(process([server, *options], {}))
        environment["BUS_URL"] = f"redis://127.0.0.1:{redis}/0"
        for name in ("gateway", "voter", "drafter"):
            stack.enter_context(process([sys.executable, "-m", f"services.{name}"], environment))
        watched = {**environment, "QUORUM_MONITOR_PORT": str(monitor)}
        stack.enter_context(process([sys.executable, "-m", "services.verifier"], watched))
        yield url, f"http://127.0.0.1:{monitor}"


async def warm_up(url: str, concurrency: int, texts: Sequence[str], max_tokens: int) -> None:
    """Other texts, so many at a time: the voter finds its weights and length, as in a running
    system."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as http:
        await _until_ready(http, url)
        await _complete_all(http, url, concurrency, texts, max_tokens)


async def measure(
    url: str,
    monitor: str,
    bus: str,
    drafters: str,
    concurrency: int,
    texts: Sequence[str],
    max_tokens: int,
) -> Sample:
    """All texts continued, so many at a time."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as http:
        before = await _counters(http, monitor)
        started = time.perf_counter()
        answers = await _complete_all(http, url, concurrency, texts, max_tokens)
        wall_s = time.perf_counter() - started
        after = await _counters(http, monitor)
    grown = {name: after[name] - before[name] for name in after}
    return Sample(
        bus,
        drafters,
        concurrency,
        sum(a["tokens"] for a in answers) / wall_s,
        statistics.fmean(a["acceptance"] for a in answers),
        1 - grown["forward_pass_seconds_sum"] / wall_s,
        1e3 * grown["forward_pass_seconds_sum"] / grown["forward_pass_seconds_count"],
        1e3 * grown["draft_wait_seconds_sum"] / max(1, grown["draft_wait_seconds_count"]),
    )


async def _complete_all(
    http: aiohttp.ClientSession, url: str, concurrency: int, texts: Sequence[str], max_tokens: int
) -> list[dict[str, float]]:
    gate = asyncio.Semaphore(concurrency)

    async def one(text: str) -> dict[str, float]:
        async with gate:
            return await _complete(http, url, text, max_tokens)

    return await asyncio.gather(*(one(text) for text in texts))


async def _complete(
    http: aiohttp.ClientSession, url: str, prompt: str, max_tokens: int
) -> dict[str, float]:
    body = {
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_speculation": True,
    }
    async with http.post(f"{url}/v1/completions", json=body) as response:
        answer = await response.json()
        assert response.status == 200, answer
    report = answer["metrics"]["speculative_decoding"]
    return {
        "tokens": answer["usage"]["completion_tokens"],
        "acceptance": report["mean_acceptance_length"],
    }


async def _counters(http: aiohttp.ClientSession, monitor: str) -> dict[str, float]:
    """The verifier's sums and counts, over all labels."""
    async with http.get(f"{monitor}/metrics") as response:
        text = await response.text()
    names = [f"{kind}_seconds_{part}" for kind in ("forward_pass", "draft_wait") for part in
             ("sum", "count")]  # fmt: skip
    return {
        name: sum(float(value) for value in re.findall(rf"^{name}\S* (\S+)$", text, re.M))
        for name in names
    }


async def _until_ready(http: aiohttp.ClientSession, url: str) -> None:
    """Ready, and all four draft models announced."""
    give_up = time.monotonic() + START_TIMEOUT_S
    while True:
        assert time.monotonic() < give_up, "the system did not get ready"
        try:
            async with (
                http.get(f"{url}/health/ready") as ready,
                http.get(f"{url}/v1/models") as models,
            ):
                target = (await models.json())["data"][0]
                if ready.status == 200 and len(target["drafters"]) == 4:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.1)


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def report(samples: Sequence[Sample]) -> str:
    """The table of medians, minima and maxima."""
    lines = [
        "| at a time | bus | drafters | tokens/s | mean acceptance length | outside passes "
        "| pass, ms | wait for a draft, ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    keys = sorted({(s.concurrency, s.bus, s.drafters) for s in samples})
    for concurrency, bus, drafters in keys:
        chosen = [
            s for s in samples if (s.concurrency, s.bus, s.drafters) == (concurrency, bus, drafters)
        ]
        speed = _spread([s.tokens_per_s for s in chosen], ".0f")
        acceptance = statistics.median(s.mean_acceptance_length for s in chosen)
        outside = statistics.median(s.outside_forward_pass for s in chosen)
        pass_ms = statistics.median(s.pass_ms for s in chosen)
        wait_ms = statistics.median(s.draft_wait_ms for s in chosen)
        lines.append(
            f"| {concurrency} | {bus} | {drafters} | {speed} | {acceptance:.2f} | {outside:.0%} "
            f"| {pass_ms:.1f} | {wait_ms:.1f} |"
        )
    return "\n".join(lines)


def draw(samples: Sequence[Sample], file: Path) -> None:
    """Bars of the medians, with their minima and maxima, for each bus and number at a time."""
    from matplotlib import pyplot

    groups = sorted({(s.concurrency, s.bus) for s in samples})
    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    for number, drafters in enumerate(sorted({s.drafters for s in samples}, reverse=True)):
        speeds = [
            [
                s.tokens_per_s
                for s in samples
                if (s.concurrency, s.bus, s.drafters) == (*g, drafters)
            ]
            for g in groups
        ]
        medians = [statistics.median(values) for values in speeds]
        spread = [
            [m - min(values) for m, values in zip(medians, speeds, strict=True)],
            [max(values) - m for m, values in zip(medians, speeds, strict=True)],
        ]
        places = [place + 0.4 * number for place in range(len(groups))]
        bars = axes.bar(places, medians, 0.38, yerr=spread, capsize=3, label=drafters)
        axes.bar_label(bars, fmt="%.0f", label_type="center", color="white")
    labels = [f"{bus}, {concurrency} at a time" for concurrency, bus in groups]
    axes.set_xticks([place + 0.2 for place in range(len(groups))], labels)
    axes.set_ylabel("tokens per second")
    axes.legend(title="drafters")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--buses", default="embedded,redis")
    arguments = parser.parse_args()
    samples: list[Sample] = []
    texts = prompts(2 * NUM_PROMPTS)
    for repeat in range(arguments.repeats):
        for bus in arguments.buses.split(","):
            for drafters, environment in SPECULATION.items():
                with system(bus, dict(environment)) as (url, monitor):
                    for concurrency in (1, 8):
                        asyncio.run(
                            warm_up(url, concurrency, texts[NUM_PROMPTS:], arguments.max_tokens)
                        )
                        sample = asyncio.run(
                            measure(
                                url,
                                monitor,
                                bus,
                                drafters,
                                concurrency,
                                texts[:NUM_PROMPTS],
                                arguments.max_tokens,
                            )
                        )
                        samples.append(sample)
                        print(f"{repeat + 1}/{arguments.repeats} {sample}", flush=True)
    print(report(samples))
    machine = {"python": platform.python_version(), "cores": os.cpu_count()}
    RESULTS.mkdir(exist_ok=True)
    result = {"machine": machine, "samples": [asdict(s) for s in samples]}
    (RESULTS / "generation.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(samples, RESULTS / "generation.png")


if __name__ == "__main__":
    main()
