"""What all of them share: the protocol of a worker process, and how calls are timed.

A worker reads JSON lines from stdin and answers each with one on stdout; logs go to stderr. The
first line is a `Setup`, answered by `{"systems": {name: [what, ...]}, "version": "...",
"huge_bytes": n}` or `{"error": "..."}`, after which the worker ends. Each next line is a `Job`,
answered by `{"ns": [...]}`, or by an error. Needs numpy alone.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Setup:
    """What is to be loaded."""

    tables: Path
    """A folder of .npy files, in the order of their names."""
    weights: Path
    """The dense part: weight0 [inputs, outputs], bias0, weight1 and so on; ReLU between layers."""
    graphs: Path
    """A folder with lookup.onnx and score.onnx, whose tables are the files above."""
    served: dict[str, Path]
    """Folders that Quorum serves, by the precision of the dense part; one arena holds for all."""
    ids: Path
    """int64 [items, tables]."""
    threads: int
    max_batch: int
    work: Path
    """What is compiled may be kept there."""

    @classmethod
    def from_line(cls, line: str) -> Setup:
        given = json.loads(line)
        paths = {name: Path(given[name]) for name in ("tables", "weights", "graphs", "ids", "work")}
        served = {name: Path(path) for name, path in given["served"].items()}
        return cls(**{**given, **paths, "served": served})

    def read_weights(self) -> list[tuple[FloatArray, FloatArray]]:
        """By layer: weight [inputs, outputs] and bias."""
        found = np.load(self.weights)
        return [(found[f"weight{k}"], found[f"bias{k}"]) for k in range(len(found) // 2)]


@dataclass(frozen=True, slots=True)
class Job:
    """Calls of a batch of items each, one behind the other, from item `first` of the ids on."""

    system: str
    what: str
    batch: int
    first: int
    calls: int
    warm_up: int
    """Calls before, that are not timed, on the ids behind; they are repeated for `warm_s`."""
    warm_s: float = 0.0
    is_each: bool = False
    """Whether each call is timed by itself."""
    save: str | None = None
    """A .npy file to write what the last call returned to."""


class System(Protocol):
    """A way to look up, or to score, or both."""

    does: tuple[str, ...]
    """Of `lookup` and `score`, its methods that there are."""

    def prepare(self, ids: IntArray) -> Any:
        """The ids of a batch [items, tables] in the form it likes best; not timed."""

    def lookup(self, ids: Any) -> Any:
        """All rows of each item side by side, [items, width]; may be overwritten by the next."""

    def score(self, ids: Any) -> Any:
        """[items, 1], likewise."""

    def array(self, found: Any) -> FloatArray:
        """What a call returned."""


class Engine(Protocol):
    """Whose systems run in one process and share one copy of the tables. It must not use the CPU
    between two jobs."""

    version: str

    def load(self, setup: Setup) -> Mapping[str, System]: ...


def main(engine: Engine) -> None:
    """A worker on this process's stdin and stdout, which native libraries may not write to."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(engine, sys.stdin, answers)


def serve(engine: Engine, jobs: TextIO, answers: TextIO) -> None:
    """Answers line by line until there are no more."""
    worker = _Worker(engine)
    ready = _answer(answers, partial(worker.load, jobs.readline()))
    while ready and (line := jobs.readline()):
        _answer(answers, partial(worker.run, line))


class _Worker:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._systems: Mapping[str, System] = {}
        self._ids: IntArray

    def load(self, line: str) -> dict[str, object]:
        setup = Setup.from_line(line)
        self._ids = np.load(setup.ids, mmap_mode="r")
        self._systems = self._engine.load(setup)
        gc.freeze()
        return {
            "systems": {name: system.does for name, system in self._systems.items()},
            "version": self._engine.version,
            "huge_bytes": huge_bytes(),
        }

    def run(self, line: str) -> dict[str, object]:
        job = Job(**json.loads(line))
        system = self._systems[job.system]
        call: Callable[[Any], Any] = getattr(system, job.what)
        num_calls = job.calls + job.warm_up
        batches = [system.prepare(self._batch(job, number)) for number in range(num_calls)]
        gc.disable()
        try:
            _warm(call, batches[job.calls :], job.warm_s)
            ns = _time(call, batches[: job.calls], job.is_each)
        finally:
            gc.enable()
        if job.save is not None:
            np.save(job.save, system.array(call(batches[job.calls - 1])))
        return {"ns": ns}

    def _batch(self, job: Job, number: int) -> IntArray:
        start = (job.first + number * job.batch) % (len(self._ids) - job.batch + 1)
        return np.array(self._ids[start : start + job.batch])


def _warm(call: Callable[[Any], Any], batches: list[Any], seconds: float) -> None:
    """All batches, and again until the time is over."""
    stop = time.perf_counter() + seconds
    is_first = True
    while batches and (is_first or time.perf_counter() < stop):
        is_first = False
        for batch in batches:
            call(batch)


def _time(call: Callable[[Any], Any], batches: list[Any], is_each: bool) -> list[int]:
    """Nanoseconds of all calls together, or of each."""
    if not is_each:
        started = time.perf_counter_ns()
        for batch in batches:
            call(batch)
        return [time.perf_counter_ns() - started]
    found = []
    for batch in batches:
        started = time.perf_counter_ns()
        call(batch)
        found.append(time.perf_counter_ns() - started)
    return found


def huge_bytes() -> int:
    """Of this process's own memory that lie on huge pages; 0 where the kernel does not say."""
    try:
        listing = Path("/proc/self/smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^AnonHugePages:\s+(\d+) kB$", listing, re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def _answer(answers: TextIO, work: Callable[[], dict[str, object]]) -> bool:
    """Writes what `work` returns, or why it returned nothing."""
    try:
        answer = work()
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
    return "error" not in answer
