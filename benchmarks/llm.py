"""python -m benchmarks.llm: Quorum beside its own plain decoding and beside other engines.

All on the same weights, prompts, machine and number of threads, in one run, by turns, so that a
machine whose speed drifts hits all of them; medians with minima and maxima. Targets are the shipped
one and a cost-faithful one (benchmarks/grow.py): what is written and accepted is the shipped
target's, what a pass costs is a larger one's. Greedy texts are compared with the engine's own
plain ones.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from benchmarks.contestants import (
    FEWEST_PROMPTS,
    WORK,
    Cell,
    Contestant,
    Run,
    Target,
    contestant,
    prepare,
)
from benchmarks.generation import RESULTS
from benchmarks.prompts import KINDS


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one cell by one system."""

    target: str
    system: str
    kind: str
    temperature: float
    concurrency: int
    tokens_per_s: float
    acceptance: float | None
    drafting: float | None
    control: float | None
    same_as_plain: int | None
    """Of the texts of this run, those that are the system's own plain ones; greedy alone."""


def compete(target: Target, arguments: argparse.Namespace) -> Iterator[Sample]:
    """All systems on all cells, by turns."""
    cells = [
        Cell(kind, float(temperature), int(concurrency))
        for kind in arguments.kinds.split(",")
        for temperature in arguments.temperatures.split(",")
        for concurrency in arguments.concurrency.split(",")
    ]
    plain: dict[tuple[str, Cell], list[object]] = {}
    with ExitStack() as stack:
        running: dict[str, Contestant] = {}
        for spec in arguments.systems.split(","):
            try:
                running[spec] = stack.enter_context(
                    contestant(spec, target, arguments.draft_length, arguments.peers_python)
                )
            except (RuntimeError, OSError, ValueError) as error:
                print(f"{spec}: {error}", flush=True)
        for repeat in range(-arguments.warm_up, arguments.repeats):
            for cell in cells:
                for spec, system_ in running.items():
                    run = system_.run(cell, arguments.max_tokens)
                    if repeat >= 0:
                        sample = _sample(target.name, spec, cell, run, plain, arguments.max_tokens)
                        print(f"{repeat + 1}/{arguments.repeats} {sample}", flush=True)
                        yield sample


def _sample(
    target: str,
    spec: str,
    cell: Cell,
    run: Run,
    plain: dict[tuple[str, Cell], list[object]],
    max_tokens: int,
) -> Sample:
    engine, mode, precision = [*spec.split(":"), "fp32"][:3]
    family = f"{engine}:{precision}"
    if mode == "plain":
        plain[family, cell] = run.outputs
    own = plain.get((family, cell))
    # Quorum's sampled texts must be those of its plain decoding, too; no peer promises that.
    is_comparable = own is not None and (cell.temperature == 0 or engine == "quorum")
    same = sum(a == b for a, b in zip(own or (), run.outputs, strict=False))
    return Sample(
        target,
        spec,
        *(cell.kind, cell.temperature, cell.concurrency),
        len(run.outputs) * max_tokens / run.seconds,
        run.acceptance,
        run.drafting,
        run.control,
        same if is_comparable else None,
    )


def report(samples: Sequence[Sample]) -> str:
    """Medians with the spread, over all kinds, and their ratio to Quorum's plain decoding."""
    lines = ["| target | temperature | at a time | system | tokens/s | over plain | by kind "
             "| tokens a pass | drafting | control | same texts |", "|---" * 11 + "|"]  # fmt: skip
    groups = sorted({(s.target, s.temperature, s.concurrency) for s in samples})
    for group in groups:
        inside = [s for s in samples if (s.target, s.temperature, s.concurrency) == group]
        base = [s for s in inside if s.system == "quorum:plain"]
        for name in dict.fromkeys(s.system for s in inside):
            own = [s for s in inside if s.system == name]
            kinds = dict.fromkeys(s.kind for s in own)
            ratios = {kind: _ratio(own, base, kind) for kind in kinds} if base else {}
            speeds = [s.tokens_per_s for s in own]
            compared = [s for s in own if s.same_as_plain is not None]
            num_texts = sum(max(FEWEST_PROMPTS, s.concurrency) for s in compared)
            lines.append(
                f"| {group[0]} | {group[1]:g} | {group[2]} | {name} "
                f"| {statistics.median(speeds):.0f} ({min(speeds):.0f} to {max(speeds):.0f}) "
                f"| {_mean(ratios.values())} "
                f"| {', '.join(f'{kind} {ratio:.2f}' for kind, ratio in ratios.items())} "
                f"| {_mean(s.acceptance for s in own)} | {_mean(s.drafting for s in own)} "
                f"| {_mean(s.control for s in own)} "
                f"| {sum(s.same_as_plain or 0 for s in compared)}/{num_texts} |"
            )
    return "\n".join(lines)


def _ratio(own: Sequence[Sample], base: Sequence[Sample], kind: str) -> float:
    """Of medians: one prompt kind after the other, since they differ more than systems do."""
    mine = statistics.median(s.tokens_per_s for s in own if s.kind == kind)
    return mine / statistics.median(s.tokens_per_s for s in base if s.kind == kind)


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.fmean(known):.2f}" if known else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", default="110m", help="of family, 110m, 700m")
    parser.add_argument("--systems", default="quorum:plain,quorum:auto", help="see `contestant`")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--temperatures", default="0,0.8")
    parser.add_argument("--concurrency", default="1,8")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--draft-length", type=int, default=5, help="where it is fixed")
    parser.add_argument(
        "--peers-python", default=sys.executable, help="of an environment with quorum[peers]"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=1)
    arguments = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    samples = [
        sample
        for name in arguments.targets.split(",")
        for sample in compete(prepare(name), arguments)
    ]
    print(report(samples))
    machine = {"python": platform.python_version(), "cores": os.cpu_count()}
    result = {"machine": machine, "samples": [asdict(sample) for sample in samples]}
    (RESULTS / "llm.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
