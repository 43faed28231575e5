"""What all peers share: the protocol of a worker process, and files converted once.

A worker reads JSON lines from stdin and answers each with one on stdout; logs go to stderr. The
first line is a `Setup`, answered by `{"ready": true, "seconds_to_load": s, "version": "..."}` or
`{"error": "..."}`, after which the worker ends. Each next line is a `Job`, answered by
`{"tokens": [[...], ...], "seconds": s}`, generated ids only, or by an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TextIO

MODES = ("plain", "draft", "ngram")
PRECISIONS = ("fp32", "int8", "int4")
Prompts = list[list[int]]
NEVER_SAID = 0
"""The padding token, as the end of text for engines that insist on one or bias it away."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What an engine shall run: Hugging Face folders, and how."""

    target: Path
    draft: Path | None
    mode: str
    precision: str
    threads: int
    work: Path
    """Converted files go there and are found again by the next run."""
    num_draft_tokens: int

    @classmethod
    def from_line(cls, line: str) -> Setup:
        given = json.loads(line)
        draft = given.get("draft")
        setup = cls(
            Path(given["target"]),
            Path(draft) if draft is not None else None,
            given["mode"],
            given["precision"],
            given["threads"],
            Path(given["work"]),
            given["num_draft_tokens"],
        )
        if setup.mode not in MODES or setup.precision not in PRECISIONS:
            raise ValueError(f"mode is one of {MODES}, precision one of {PRECISIONS}")
        if (setup.mode == "draft") != (setup.draft is not None):
            raise ValueError("a draft model goes with mode 'draft', and only with it")
        return setup

    @property
    def draft_precision(self) -> str:
        """Four bits cost a small draft model more agreement than they save it time."""
        return "fp32" if self.precision == "fp32" else "int8"


@dataclass(frozen=True, slots=True)
class Job:
    """Prompts to continue, at most `concurrency` at a time, by exactly `max_tokens` each: the end
    of text is a token like any other. At temperature 0 the likeliest token is taken."""

    prompts: Prompts
    max_tokens: int
    temperature: float
    seed: int
    concurrency: int

    def batches(self) -> Iterator[Prompts]:
        for start in range(0, len(self.prompts), self.concurrency):
            yield self.prompts[start : start + self.concurrency]


class Engine(Protocol):
    """A peer. It must not use the CPU between two jobs."""

    def load(self, setup: Setup) -> str:
        """Loads what `setup` says, and returns the engine's name and version."""

    def run(self, job: Job) -> Prompts:
        """The generated tokens of each prompt."""

    def close(self) -> None:
        """Ends what the engine has started."""


def serve(engine: Engine, jobs: TextIO, answers: TextIO) -> None:
    """Answers line by line until there are no more."""
    try:
        ready = _answer(answers, partial(_load, engine, jobs.readline()))
        while ready and (line := jobs.readline()):
            _answer(answers, partial(_run, engine, line))
    finally:
        engine.close()


def main(engine: Engine) -> None:
    """A worker on this process's stdin and stdout, which native libraries may not write to."""
    # So that an engine's own processes end with a worker that is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(engine, sys.stdin, answers)


def converted(
    setup: Setup, model: Path, precision: str, kind: str, convert: Callable[[Path], None]
) -> Path:
    """A folder with `model` as `convert` writes it, kept as long as the weights are the same."""
    digest = hashlib.sha256((model / "config.json").read_bytes())
    with (model / "model.safetensors").open("rb") as weights:
        digest.update(hashlib.file_digest(weights, "sha256").digest())
    folder = setup.work / f"{kind}-{model.name}-{precision}-{digest.hexdigest()[:12]}"
    if not folder.is_dir():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        convert(unfinished)
        unfinished.rename(folder)
    return folder


def _answer(answers: TextIO, work: Callable[[], dict[str, object]]) -> bool:
    """Writes what `work` returns, or why it returned nothing."""
    try:
        answer = work()
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
    return "error" not in answer


def _load(engine: Engine, line: str) -> dict[str, object]:
    setup = Setup.from_line(line)
    started = time.perf_counter()
    version = engine.load(setup)
    seconds = time.perf_counter() - started
    return {"ready": True, "seconds_to_load": round(seconds, 3), "version": version}


def _run(engine: Engine, line: str) -> dict[str, object]:
    job = Job(**json.loads(line))
    started = time.perf_counter()
    tokens = engine.run(job)
    seconds = time.perf_counter() - started
    _check(job, tokens)
    return {"tokens": tokens, "seconds": seconds}


def _check(job: Job, tokens: Sequence[Sequence[int]]) -> None:
    lengths = [len(generated) for generated in tokens]
    if lengths != [job.max_tokens] * len(job.prompts):
        raise RuntimeError(f"{job.max_tokens} tokens each were asked for, {lengths} came")
