"""What competes in benchmarks.recommender: worker processes of benchmarks/peers_recommender.

Each is loaded once and then waits, without using the CPU, until it is its turn.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.generation import ROOT
from benchmarks.recommender_models import WORK, Prepared

FloatArray = npt.NDArray[np.float32]

PEERS = ("numpy", "torch", "onnxruntime", "tensorflow", "fbgemm")
OURS = "quorum"
THREADS = 2
MAX_BATCH = 2048
WARM_S = 0.03
"""Before each turn: cores that were idle, and caches that others have filled, are slow at first."""
SLOWED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Variables that make numpy slower than it is, where they are set."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What a system is to do: `calls` of a batch of items each, from an item on."""

    what: str
    batch: int
    first: int
    calls: int


@dataclass(frozen=True, slots=True)
class Worker:
    """A process of an engine, whose systems do what they say."""

    engine: str
    process: subprocess.Popen[str]
    log: Path
    systems: dict[str, list[str]]
    version: str
    huge_bytes: int

    def ns_per_item(self, system: str, turn: Turn) -> float:
        """Mean of all calls. Raises RuntimeError."""
        warm_up = max(2, turn.calls // 10)
        (ns,) = self._run(system, turn, warm_up=warm_up, warm_s=WARM_S)["ns"]
        return float(ns) / (turn.calls * turn.batch)

    def latencies_us(self, system: str, calls: int) -> npt.NDArray[np.float64]:
        """Of one item, call by call. Raises RuntimeError."""
        turn = Turn("score", 1, 0, calls)
        found = self._run(system, turn, warm_up=calls // 10, is_each=True)["ns"]
        return np.array(found) / 1e3

    def found(self, system: str, what: str, batch: int) -> FloatArray:
        """What it returns for the first items. Raises RuntimeError."""
        file = WORK / f"{self.engine}-found.npy"
        self._run(system, Turn(what, batch, 0, 1), warm_up=0, save=str(file))
        array: FloatArray = np.load(file)
        file.unlink()
        return array

    def _run(self, system: str, turn: Turn, **more: object) -> dict[str, Any]:
        job = {"system": system, "what": turn.what, "batch": turn.batch, "first": turn.first,
               "calls": turn.calls, **more}  # fmt: skip
        return _ask(self.process, job, self.log)


@contextmanager
def started(engine: str, prepared: Prepared, peers_python: str) -> Iterator[Worker]:
    """Peers with a Python that has them installed. Raises RuntimeError for one that does not
    load."""
    log = WORK / f"{engine}.log"
    python = sys.executable if engine == OURS else peers_python
    command = [python, "-m", f"benchmarks.peers_recommender.{engine}"]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                         text=True, cwd=ROOT, env=_environment(engine)) as process,
    ):  # fmt: skip
        try:
            ready = _ask(process, _setup(prepared), log)
            yield Worker(
                engine, process, log, ready["systems"], ready["version"], ready["huge_bytes"]
            )
        finally:
            assert process.stdin is not None
            process.stdin.close()


def _setup(prepared: Prepared) -> dict[str, object]:
    return {
        "tables": str(prepared.tables),
        "weights": str(prepared.weights),
        "graphs": str(prepared.graphs),
        "served": {precision: str(folder) for precision, folder in prepared.served.items()},
        "ids": str(prepared.ids),
        "threads": THREADS,
        "max_batch": MAX_BATCH,
        "work": str(WORK),
    }


def _environment(engine: str) -> dict[str, str]:
    """As many threads for every library, and what their documentation advises."""
    threads = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(THREADS)
    )
    # Results' memory is kept for the next call, as by the allocators that torch's guide advises;
    # torch's own huge pages are for FBGEMM's copy of the tables, and slow results down.
    advised = {
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
        "MALLOC_TOP_PAD_": str(64 << 20),
        "THP_MEM_ALLOC_ENABLE": str(int(engine == "fbgemm")),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    own = {name: value for name, value in os.environ.items() if name not in SLOWED}
    return {**own, **threads, **advised}


def _ask(process: subprocess.Popen[str], line: dict[str, object], log: Path) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(line) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    except BrokenPipeError:
        answer = ""
    if not answer:
        raise RuntimeError(f"the process ended: {_last_line(log)}")
    found: dict[str, Any] = json.loads(answer)
    if "error" in found:
        raise RuntimeError(found["error"])
    return found


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
