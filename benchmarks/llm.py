"""python -m benchmarks.llm [SUITE ...]: Quorum beside its own plain decoding and beside other
engines.

All systems of a suite on the same weights, prompts, machine and number of threads, in one run, by
turns, so that a machine whose speed drifts hits all of them; medians with minima and maxima.
Targets are the shipped one and cost-faithful ones (benchmarks/grow.py): what is written and
accepted is the shipped target's, what a pass costs is a larger one's. Greedy texts are compared
with the engine's own plain ones. What a suite measured replaces what it measured before in the
results; without a suite, the results are shown.

In all suites but `steady` the requests of a load begin together, and the time is that of the last
one: those who decode plainly stay in step, those who draft do not, and their last ones have the
machine to themselves. In `steady` whoever ends makes room for the next, for three texts each.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.contestants import Cell, Contestant, Run, Target, contestant, prepare
from benchmarks.generation import RESULTS
from benchmarks.llm_plots import draw
from benchmarks.llm_report import Found, Sample, figures, read, spent, table, write
from benchmarks.prompts import KINDS


@dataclass(frozen=True, slots=True)
class Suite:
    """What is measured side by side: every system on every workload."""

    targets: tuple[str, ...]
    systems: tuple[str, ...]
    temperatures: tuple[float, ...] = (0.0, 0.8)
    concurrency: tuple[int, ...] = (1, 8)
    num_turns: int = 1

    def cells(self) -> list[Cell]:
        return [
            Cell(kind, temperature, concurrency, self.num_turns)
            for concurrency in self.concurrency
            for temperature in self.temperatures
            for kind in KINDS
        ]


OURS = ("quorum:plain", "quorum:auto")
PEERS = ("genai", "openvino", "llama_cpp")
MODES = ("plain", "draft", "ngram")
BESIDE = (*OURS, *(f"{peer}:{mode}" for peer in PEERS for mode in MODES))
ABLATION = ("plain", "single", "vote", "climb", "all", "ahead", "lanes", "auto")
SUITES = {
    "loads": Suite(("110m", "family"), OURS, concurrency=(1, 2, 4, 8, 16, 32, 64)),
    "steady": Suite(("110m",), OURS, concurrency=(8, 16), num_turns=3),
    "peers": Suite(
        ("110m",),
        (
            *BESIDE,
            *(f"{system}:{precision}" for precision in ("int8", "int4") for system in BESIDE),
            *(f"transformers:{mode}" for mode in MODES),
        ),
        temperatures=(0.0,),
    ),
    "ablation": Suite(
        ("110m",),
        tuple(f"quorum:{way}" for way in ABLATION),
        concurrency=(1, 8, 16),
    ),
    "redis": Suite(("110m",), ("quorum:redis-plain", "quorum:redis-auto")),
    "large": Suite(
        ("700m",), ("quorum:plain:int8", "quorum:auto:int8"), temperatures=(0.0,), concurrency=(1,)
    ),
}


@dataclass(slots=True)
class Turns:
    """Systems of one target that take turns."""

    target: Target
    found: Found
    plain: dict[tuple[str, Cell], list[object]] = field(default_factory=dict)
    """What each engine said without speculation."""

    def run(self, suite: Suite, arguments: argparse.Namespace) -> Iterator[None]:
        """Yields whenever each system had its turn on every workload."""
        with ExitStack() as stack:
            running: dict[str, Contestant] = {}
            for spec in suite.systems:
                print(f"{self.target.name}: starting {spec}", flush=True)
                try:
                    running[spec] = stack.enter_context(
                        contestant(
                            spec, self.target, arguments.draft_length, arguments.peers_python
                        )
                    )
                    self.found.versions[spec] = running[spec].version
                except (RuntimeError, OSError, ValueError) as error:
                    self._fail(spec, error)
            for repeat in range(-arguments.warm_up, arguments.repeats):
                for cell in suite.cells():
                    self._turn(running, cell, repeat, arguments)
                yield
            for spec, system in running.items():
                if (share := system.late_share()) is not None:
                    self.found.late_shares[f"{self.target.name} {spec}"] = share

    def _turn(
        self,
        running: dict[str, Contestant],
        cell: Cell,
        repeat: int,
        arguments: argparse.Namespace,
    ) -> None:
        for spec in list(running):
            try:
                run = running[spec].run(cell, arguments.max_tokens)
            except (RuntimeError, OSError, ValueError) as error:
                del running[spec]
                self._fail(spec, error)
                continue
            if repeat >= 0:
                sample = self._sample(spec, cell, run, arguments.max_tokens)
                print(f"{repeat + 1}/{arguments.repeats} {sample}", flush=True)
                self.found.samples.append(sample)

    def _fail(self, spec: str, error: Exception) -> None:
        print(f"{spec}: {error}", flush=True)
        self.found.failed[f"{self.target.name} {spec}"] = f"{type(error).__name__}: {error}"

    def _sample(self, spec: str, cell: Cell, run: Run, max_tokens: int) -> Sample:
        engine, mode, precision = [*spec.split(":"), "fp32"][:3]
        family = f"{engine}:{precision}"
        if mode.removeprefix("redis-") == "plain":
            self.plain[family, cell] = run.outputs
        own = self.plain.get((family, cell))
        # Quorum's sampled texts must be those of its plain decoding, too; no peer promises that.
        is_comparable = own is not None and (cell.temperature == 0 or engine == "quorum")
        same = sum(a == b for a, b in zip(own or (), run.outputs, strict=False))
        return Sample(
            self.target.name,
            spec,
            *(cell.kind, cell.temperature, cell.concurrency),
            len(run.outputs),
            len(run.outputs) * max_tokens / run.seconds,
            run.acceptance,
            same if is_comparable else None,
            run.shares,
            run.ready,
        )


def measure(suite: Suite, arguments: argparse.Namespace) -> Iterator[Found]:
    """What is found so far, after each repeat: a run that is stopped keeps what it has."""
    now = datetime.now(UTC).date().isoformat()
    found = Found(now, platform.python_version(), os.cpu_count() or 0)
    for name in suite.targets:
        for _ in Turns(prepare(name), found).run(suite, arguments):
            yield found
    yield found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}")
    parser.add_argument("--targets", help="instead of the suite's: of family, 110m, 700m")
    parser.add_argument("--systems", help="instead of the suite's; see `contestant`")
    parser.add_argument("--temperatures", help="instead of the suite's")
    parser.add_argument("--concurrency", help="instead of the suite's")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--draft-length", type=int, default=5, help="where it is fixed")
    parser.add_argument(
        "--peers-python", default=sys.executable, help="of an environment with quorum[peers]"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "llm.json")
    arguments = parser.parse_args()
    if unknown := set(arguments.suites) - SUITES.keys():
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    results = read(arguments.out)
    for name in arguments.suites:
        before = results.get(name)
        for found in measure(_chosen(SUITES[name], arguments), arguments):
            results[name] = before.with_newer(found) if before else found
            write(results, arguments.out)
    for name, found in results.items():
        print(f"\n{name}, {found.date}\n{table(found.samples)}")
        print(f"\n{spent(found.samples)}")
        for system, error in found.failed.items():
            print(f"{system}: {error}")
        for system, share in found.late_shares.items():
            print(f"{system}: event loop {share:.2%} of the time later than 2 ms")
        print("\n".join(f"{key}: {figure:.3g}" for key, figure in figures(found.samples).items()))
    draw(results, arguments.out.with_suffix(".png"))


def _chosen(suite: Suite, arguments: argparse.Namespace) -> Suite:
    """The suite with what the command line says instead."""
    if arguments.targets:
        suite = replace(suite, targets=tuple(arguments.targets.split(",")))
    if arguments.systems:
        suite = replace(suite, systems=tuple(arguments.systems.split(",")))
    if arguments.temperatures:
        temperatures = tuple(map(float, arguments.temperatures.split(",")))
        suite = replace(suite, temperatures=temperatures)
    if arguments.concurrency:
        concurrency = tuple(map(int, arguments.concurrency.split(",")))
        suite = replace(suite, concurrency=concurrency)
    return suite


if __name__ == "__main__":
    main()
