"""What competes in benchmarks.llm: Quorum in several ways, and other engines, on the same target.

A contestant is loaded once and then waits, without using the CPU, until it is its turn.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from benchmarks import grow
from benchmarks.generation import ROOT, scrape, system
from benchmarks.prompts import prompts
from services.verifier.export import export

WORK = ROOT / "build" / "benchmarks"
THREADS = 2
DRAFTERS = ("quorum-draft-small", "quorum-draft-wide")
START_TIMEOUT_S = 120.0
FEWEST_PROMPTS = 4


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload."""

    kind: str
    temperature: float
    concurrency: int
    num_turns: int = 1
    """Texts for each of the requests at a time, one after the other."""

    def prompts(self) -> list[list[int]]:
        return prompts(self.kind, max(FEWEST_PROMPTS, self.num_turns * self.concurrency))


@dataclass(frozen=True, slots=True)
class Run:
    """What a system made of a cell, once. `outputs` are texts or token ids."""

    seconds: float
    outputs: list[object] = field(repr=False)
    acceptance: float | None = None
    """Tokens for each row of a target pass that was not a prompt's."""
    shares: dict[str, float] = field(default_factory=dict)
    """Of the rounds' time, by what it went into (the response's `seconds`)."""
    ready: float | None = None
    """Share of the proposed tokens that had been drafted ahead, of draft models that compute."""


class Contestant(Protocol):
    """A system that is loaded and waits."""

    version: str

    def run(self, cell: Cell, max_tokens: int) -> Run: ...

    def late_share(self) -> float | None:
        """How often its event loop came more than 2 ms late to what it was to do, if it tells."""


@dataclass(frozen=True, slots=True)
class Quorum:
    """Through the REST door."""

    url: str
    version: str = f"onnxruntime {metadata.version('onnxruntime')}"

    def late_share(self) -> float | None:
        """Of the gateway's process, since it started; embedded, that is all of Quorum."""
        bucket = "event_loop_lag_seconds_bucket"
        buckets = {s.labels["le"]: s.value for s in scrape(self.url) if s.name == bucket}
        return 1 - buckets["0.002"] / buckets["+Inf"]

    def run(self, cell: Cell, max_tokens: int) -> Run:
        return asyncio.run(self._run(cell, max_tokens))

    async def _run(self, cell: Cell, max_tokens: int) -> Run:
        timeout = aiohttp.ClientTimeout(total=900)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            gate = asyncio.Semaphore(cell.concurrency)

            async def complete(seed: int, prompt: list[int]) -> dict[str, Any]:
                body = {"prompt": prompt, "max_tokens": max_tokens, "seed": seed,
                        "temperature": cell.temperature, "ignore_eos": True,
                        "return_speculation": True}  # fmt: skip
                async with gate, http.post(f"{self.url}/v1/completions", json=body) as response:
                    answer: dict[str, Any] = await response.json()
                    assert response.status == 200, answer
                    return answer

            started = time.perf_counter()
            answers = await asyncio.gather(
                *(complete(seed, prompt) for seed, prompt in enumerate(cell.prompts()))
            )
            seconds = time.perf_counter() - started
        reports = [answer["metrics"]["speculative_decoding"] for answer in answers]
        spent = {name: sum(r["seconds"][name] for r in reports) for name in reports[0]["seconds"]}
        num_passes = sum(report["num_target_passes"] for report in reports)
        models = [d for report in reports for d in report["drafters"] if d["name"] in DRAFTERS]
        num_proposed = sum(drafter["num_proposed_tokens"] for drafter in models)
        num_ready = sum(drafter["num_ready_tokens"] for drafter in models)
        return Run(
            seconds,
            [answer["choices"][0]["text"] for answer in answers],
            len(answers) * max_tokens / num_passes,
            {name: value / sum(spent.values()) for name, value in spent.items()},
            num_ready / num_proposed if num_proposed else None,
        )

    async def until_ready(self) -> None:
        """Until a request is answered."""
        give_up = time.monotonic() + START_TIMEOUT_S
        async with aiohttp.ClientSession() as http:
            while time.monotonic() < give_up:
                try:
                    body = {"prompt": [5, 6], "max_tokens": 1}
                    async with http.post(f"{self.url}/v1/completions", json=body) as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.2)  # a process that starts sends no word
        raise TimeoutError("Quorum did not get ready")


@dataclass(frozen=True, slots=True)
class Peer:
    """A worker process of benchmarks/peers."""

    process: subprocess.Popen[str]
    version: str = ""

    def late_share(self) -> float | None:
        return None

    def run(self, cell: Cell, max_tokens: int) -> Run:
        job = {"prompts": cell.prompts(), "max_tokens": max_tokens, "seed": 0,
               "temperature": cell.temperature, "concurrency": cell.concurrency}  # fmt: skip
        answer = self.ask(job)
        return Run(answer["seconds"], answer["tokens"])

    def ask(self, line: dict[str, object]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


@dataclass(frozen=True, slots=True)
class Target:
    """A target model in the forms that the contestants want."""

    name: str
    hugging_face: Path

    def exported(self, precision: str) -> Path:
        folder = WORK / f"{self.name}-{precision}"
        if _is_older(folder / "manifest.json", self.hugging_face / "model.safetensors"):
            shutil.rmtree(folder, ignore_errors=True)
            export(str(self.hugging_face), folder, precision)
        return folder


def prepare(name: str) -> Target:
    """The shipped target (`family`), or it grown to a size."""
    WORK.mkdir(parents=True, exist_ok=True)
    source = ROOT / "models" / "quorum-6m"
    for drafter in DRAFTERS:
        _as_hugging_face(ROOT / "models" / drafter, WORK / "hf" / drafter, None)
    folder = WORK / "hf" / name
    _as_hugging_face(source, folder, None if name == "family" else grow.SIZES[name])
    return Target(name, folder)


def _as_hugging_face(source: Path, out: Path, size: grow.Size | None) -> None:
    if _is_older(out / "model.safetensors", source / "model.onnx"):
        config, weights = grow.read(source)
        if size is not None:
            config, weights = grow.grow(config, weights, size)
        grow.save(config, weights, source, out)


def _is_older(made: Path, source: Path) -> bool:
    """Whether a file is to be made again, or for the first time."""
    return not made.is_file() or made.stat().st_mtime < source.stat().st_mtime


@contextmanager
def contestant(
    spec: str, target: Target, draft_length: int, peers_python: str
) -> Iterator[Contestant]:
    """Starts what `spec` names: quorum:[redis-]WAY[:PRECISION] or ENGINE:MODE[:PRECISION], the
    latter with a Python that has it installed."""
    engine, mode, precision = [*spec.split(":"), "fp32"][:3]
    if engine == "quorum":
        environment = {
            "GATEWAY_MODEL": str(target.exported(precision)),
            "VERIFIER_MODEL": str(target.exported(precision)),
            "VERIFIER_MAX_BATCH": "64",
            "DRAFTER_MAX_REQUESTS": "64",
            # Prompts are repeated: whoever remembers other requests would know the texts.
            "DRAFTER_MODELS": ",".join([*(f"models/{name}" for name in DRAFTERS), "ngram"]),
            "VERIFIER_PREFIX_CACHE_MB": "0",
            **_settings(mode.removeprefix("redis-"), draft_length),
        }
        bus = "redis" if mode.startswith("redis-") else "embedded"
        with system(bus, environment) as (url, _):
            quorum = Quorum(url)
            asyncio.run(quorum.until_ready())
            yield quorum
        return
    draft = str(WORK / "hf" / DRAFTERS[1]) if mode == "draft" else None
    command = [peers_python, "-m", f"benchmarks.peers.{engine}"]
    with (
        (WORK / f"{spec.replace(':', '-')}.log").open("w") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                         text=True, cwd=ROOT) as process,
    ):  # fmt: skip
        ready = Peer(process).ask({"target": str(target.hugging_face), "draft": draft, "mode": mode,
                  "precision": precision, "threads": THREADS, "work": str(WORK / "peers"),
                  "num_draft_tokens": draft_length})  # fmt: skip
        yield Peer(process, ready["version"])
        assert process.stdin is not None
        process.stdin.close()


def _settings(mode: str, draft_length: int) -> dict[str, str]:
    """The ways in which Quorum runs: all that it has, each of its ways of drafting, and steps of
    the paper's ablation."""
    one = f"models/{DRAFTERS[1]}"
    fixed = {"VERIFIER_DRAFTING": "all", "VOTER_FIXED_LENGTH": str(draft_length),
             "VERIFIER_SPECULATION_LENGTH": str(draft_length)}  # fmt: skip
    return {
        "auto": {},
        "plain": {"VERIFIER_DRAFTING": "none"},
        "graph": {"DRAFTER_COMPILES": "false"},
        **{
            way: {"VERIFIER_DRAFTING": way} for way in ("all", "needed", "ahead", "lanes", "lookup")
        },
        "single": {**fixed, "DRAFTER_MODELS": one},
        "vote": {**fixed, "VOTER_WALK": "greedy"},
        "climb": {"VERIFIER_DRAFTING": "all", "VOTER_WALK": "greedy", "VOTER_LENGTH": "climb"},
    }[mode]
