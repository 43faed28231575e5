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
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from benchmarks.contestants import WORK, Cell, Contestant, Run, Target, contestant, prepare
from benchmarks.generation import RESULTS
from benchmarks.llm_report import Sample, draw, figures, table
from benchmarks.prompts import KINDS


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
        len(run.outputs),
        len(run.outputs) * max_tokens / run.seconds,
        run.acceptance,
        run.drafting,
        run.control,
        same if is_comparable else None,
    )


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
    parser.add_argument("--out", type=Path, default=RESULTS / "llm.json")
    arguments = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    samples = [
        sample
        for name in arguments.targets.split(",")
        for sample in compete(prepare(name), arguments)
    ]
    print(table(samples))
    reached = figures(samples)
    print("\n".join(f"{name}: {figure:.3g}" for name, figure in reached.items()))
    machine = {"python": platform.python_version(), "cores": os.cpu_count()}
    result = {"machine": machine, "figures": reached, "samples": list(map(asdict, samples))}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    draw(samples, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
