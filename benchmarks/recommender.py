"""python -m benchmarks.recommender [--quick] [--large]: Quorum's recommender beside other ways.

The MicroRec paper's small model with random weights: every system on the same tables, ids and
number of threads, in one run, by turns, so that a machine whose speed drifts hits all of them;
medians with minima and maxima. Each system is a process of its own, with one copy of the tables on
huge pages. Before anything is timed, lookups are compared with numpy's, bit for bit, and scores
with ONNX Runtime's in fp32. What a suite measured replaces what it measured before: `small` and
`rest` without an argument, `large` with --large.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.generation import RESULTS
from benchmarks.recommender_contestants import OURS, PEERS, THREADS, Turn, Worker, started
from benchmarks.recommender_models import Prepared, prepare_large, prepare_small
from benchmarks.recommender_plots import draw
from benchmarks.recommender_report import (
    HALF_OF_GOAL,
    HALF_OF_MOST,
    INT8,
    LIMIT,
    Found,
    Latency,
    Rest,
    Sample,
    figures,
    read,
    tables,
    write,
)
from benchmarks.recommender_rest import (
    Connection,
    Request,
    closed_loop,
    open_loop,
    request,
    scores_of,
    serving,
)

TOLERANCE = 1e-4
REST = "rest"
CONNECTIONS = (4, 8, 16)
CANDIDATES = 512
NUM_REQUESTS = 256
REST_GOAL = 100_000
"""Items a second that were asked for: latencies are measured at half of them, and at half of the
most that was served."""
CALM_S = 0.02
"""Between turns: threads of the one before may wait actively for a while."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    calls: Mapping[int, int]
    """By batch, of a turn."""
    single_calls: int
    rest_s: float
    rest_precisions: tuple[str, ...]


FULL = Plan(7, {1: 4000, 64: 500, 256: 200, 2048: 32}, 5000, 8.0, ("int8", "fp32"))
QUICK = Plan(5, {1: 300, 64: 64, 256: 32, 2048: 16}, 5000, 2.0, ("int8",))


@dataclass(slots=True)
class Turns:
    """Systems of a model that take turns."""

    prepared: Prepared
    plan: Plan
    found: Found
    running: dict[str, Worker] = field(default_factory=dict)
    """By system."""
    order: random.Random = field(default_factory=lambda: random.Random(0))

    def run(self, engines: tuple[str, ...], peers_python: str) -> Iterator[None]:
        """Yields after each round."""
        with ExitStack() as stack:
            for engine in engines:
                self._start(stack, engine, peers_python)
            self._check()
            for number in range(self.plan.rounds):
                for what in ("lookup", "score"):
                    for batch, calls in self.plan.calls.items():
                        self._round(number, Turn(what, batch, number * calls * batch, calls))
                self._single(number)
                yield

    def _start(self, stack: ExitStack, engine: str, peers_python: str) -> None:
        print(f"starting {engine} ...", flush=True)
        try:
            worker = stack.enter_context(started(engine, self.prepared, peers_python))
        except (RuntimeError, OSError) as error:
            self._fail(engine, error)
            return
        self.running |= dict.fromkeys(worker.systems, worker)
        self.found.versions[engine] = worker.version
        self.found.huge_bytes[engine] = worker.huge_bytes
        if engine == OURS:
            share = worker.huge_bytes / self.prepared.layout.num_bytes
            self.found.arena_huge_share = round(min(1.0, share), 3)

    def _check(self) -> None:
        """Leaves out what finds other rows, or scores other than within the tolerance."""
        ids = self.prepared.read_ids()
        for batch in self.plan.calls:
            rows, scores = self.prepared.features(ids[:batch]), self.prepared.scores(ids[:batch])
            for system, worker in list(self.running.items()):
                try:
                    if "lookup" in worker.systems[system]:
                        self._check_rows(system, worker.found(system, "lookup", batch), rows)
                    if "score" in worker.systems[system]:
                        self._check_scores(system, worker.found(system, "score", batch), scores)
                except (RuntimeError, ValueError) as error:
                    self._fail(system, error)
            print(f"compared at {batch}: {', '.join(self.running)}", flush=True)

    def _check_rows(self, system: str, rows: np.ndarray, expected: np.ndarray) -> None:
        if not system.startswith(LIMIT) and not np.array_equal(rows, expected):
            raise ValueError("finds other rows than numpy")

    def _check_scores(self, system: str, scores: np.ndarray, expected: np.ndarray) -> None:
        if scores.shape != expected.shape:
            raise ValueError(f"scores are {scores.shape}, not {expected.shape}")
        difference = float(np.abs(scores - expected).max())
        before = self.found.differences.get(system, 0.0)
        self.found.differences[system] = max(before, difference)
        if system != INT8 and difference > TOLERANCE:
            raise ValueError(f"a score differs from ONNX Runtime's by {difference:.2g}")

    def _round(self, number: int, turn: Turn) -> None:
        """Each system's turn, in another order each time."""
        systems = [s for s, worker in self.running.items() if turn.what in worker.systems[s]]
        for system in self.order.sample(systems, len(systems)):
            time.sleep(CALM_S)
            try:
                ns = self.running[system].ns_per_item(system, turn)
            except RuntimeError as error:
                self._fail(system, error)
                continue
            self.found.samples.append(Sample(system, turn.what, turn.batch, round(ns, 2)))
            print(f"{number + 1}/{self.plan.rounds} {turn.what:6} {turn.batch:4} at a time "
                  f"{system:24} {ns:12.1f} ns an item", flush=True)  # fmt: skip

    def _single(self, number: int) -> None:
        """One item at a time, by Quorum."""
        for system, worker in list(self.running.items()):
            if worker.engine != OURS or "score" not in worker.systems[system]:
                continue
            time.sleep(CALM_S)
            try:
                latencies = worker.latencies_us(system, self.plan.single_calls)
            except RuntimeError as error:
                self._fail(system, error)
                continue
            p50, p99 = np.percentile(latencies, (50, 99)).round(2).tolist()
            self.found.latencies.append(Latency(system, len(latencies), p50, p99))
            print(f"{number + 1}/{self.plan.rounds} one item {system:24} p50 {p50:.1f} us, "
                  f"p99 {p99:.1f} us", flush=True)  # fmt: skip

    def _fail(self, name: str, error: Exception) -> None:
        print(f"{name}: {error}", flush=True)
        self.found.failed[name] = f"{type(error).__name__}: {error}"
        self.running.pop(name, None)


def measure(prepared: Prepared, plan: Plan, arguments: argparse.Namespace) -> Iterator[Found]:
    """What is found so far, after each round: a run that is stopped keeps what it has."""
    engines = (OURS, *arguments.peers.split(",")) if prepared.tables is not None else (OURS,)
    found = Found(rounds=plan.rounds, threads=THREADS, model=f"MicroRec {prepared.name}")
    found.arena_bytes = prepared.layout.num_bytes
    for _ in Turns(prepared, plan, found).run(tuple(filter(None, engines)), arguments.peers_python):
        yield found


def measure_rest(prepared: Prepared, plan: Plan) -> Iterator[Found]:
    """Likewise, through the REST door, one model after the other."""
    found = Found(rounds=plan.rounds, threads=THREADS, model=f"MicroRec {prepared.name}")
    for precision in plan.rest_precisions:
        folder = prepared.served[precision]
        print(f"starting the gateway with {folder.name} ...", flush=True)
        try:
            for _ in _rest_rounds(prepared, precision, plan, found):
                yield found
        # An open loop fails with all that failed in it.
        except (RuntimeError, ValueError, OSError, EOFError, ExceptionGroup) as error:
            print(f"{folder.name}: {error}", flush=True)
            found.failed[folder.name] = f"{type(error).__name__}: {error}"
    yield found


def _rest_rounds(prepared: Prepared, precision: str, plan: Plan, found: Found) -> Iterator[None]:
    """Of one model."""
    folder, ids = prepared.served[precision], prepared.read_ids()
    names = [each.name for each in prepared.layout.fields]
    requests = [
        request(folder.name, names, ids[k * CANDIDATES : (k + 1) * CANDIDATES])
        for k in range(NUM_REQUESTS)
    ]
    with serving(folder, THREADS) as port:
        difference = asyncio.run(_rest_difference(port, requests[0], prepared))
        found.differences[f"REST {precision}"] = difference
        if precision == "fp32" and difference > TOLERANCE:
            raise ValueError(f"a score differs from ONNX Runtime's by {difference:.2g}")
        asyncio.run(closed_loop(port, requests, CONNECTIONS[-1], 1.0))
        for number in range(plan.rounds):
            _rest_round(port, requests, folder.name, found, plan, number)
            yield


async def _rest_difference(port: int, asked: Request, prepared: Prepared) -> float:
    connection = await Connection.open(port)
    scores = scores_of(await connection.ask(asked.wire))
    connection.close()
    return float(np.abs(scores - prepared.scores(asked.ids).ravel()).max())


def _rest_round(
    port: int, requests: list[Request], model: str, found: Found, plan: Plan, number: int
) -> None:
    most = 0.0
    for connections in CONNECTIONS:
        per_second = asyncio.run(closed_loop(port, requests, connections, plan.rest_s))
        most = max(most, per_second)
        found.rest.append(Rest(model, f"closed {connections}", round(per_second * CANDIDATES)))
    told = f"{number + 1}/{plan.rounds} REST {model}: {most * CANDIDATES:,.0f} items/s"
    for loop, load in ((HALF_OF_GOAL, 0.5 * REST_GOAL / CANDIDATES), (HALF_OF_MOST, 0.5 * most)):
        latencies = asyncio.run(open_loop(port, requests, load, plan.rest_s, number))
        p50, p99 = np.percentile(latencies, (50, 99)).round(3).tolist()
        found.rest.append(Rest(model, loop, round(load * CANDIDATES), p50, p99))
        told += f"; at {load * CANDIDATES:,.0f} p50 {p50:.2f} ms, p99 {p99:.2f} ms"
    print(told, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer calls a turn; minutes")
    parser.add_argument(
        "--large", action="store_true", help="the large model alone, by Quorum alone (fp16 tables)"
    )
    parser.add_argument("--suites", default="small,rest", help="of small and rest")
    parser.add_argument("--peers", default=",".join(PEERS), help="those to measure")
    parser.add_argument(
        "--peers-python", default=sys.executable, help="of an environment with [peers-recommender]"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "recommender.json")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    results = read(arguments.out)
    suites = ["large"] if arguments.large else arguments.suites.split(",")
    prepared = prepare_large() if arguments.large else prepare_small()
    for suite in suites:
        running = (
            measure_rest(prepared, plan) if suite == REST else measure(prepared, plan, arguments)
        )
        for found in running:
            results[suite] = found
            write(results, arguments.out)
    for suite, found in results.items():
        print(f"\n{suite}, {found.date}\n{tables(found)}")
        for system, why in found.failed.items():
            print(f"{system} failed: {why}")
    print("\n" + "\n".join(f"{key}: {value:g}" for key, value in figures(results).items()))
    draw(results, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
