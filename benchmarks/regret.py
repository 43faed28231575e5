"""python -m benchmarks.regret: policies of lengths, votes and trees, replayed over the record.

Regret is how much longer a workload takes than with the best fixed length of 2 to 12 for it, which
only hindsight knows. Prints tables; writes benchmarks/results/regret.json and, where matplotlib is
installed, regret.png. Seconds are those of benchmarks.replay's curves, so that every run on every
machine gives the same figures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.compared import asking, noise, of, trees, votes
from benchmarks.recorded import REACH, Track, load
from benchmarks.replay import LARGE, SMALL, Costs, Replay, Request, Segment, whole
from benchmarks.rules import Climbing, Fixed, Learned, Lengths, Useful

RESULTS = Path(__file__).parent / "results"
COSTS = {"110 M": LARGE, "6 M": SMALL}
AT_A_TIME = (1, 8)
FIXED = range(2, REACH + 1)
TURN = 64
"""Tokens after which a switching request goes on as one of another kind."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in the order in which they come."""

    name: str
    is_switching: bool
    requests: Sequence[Request]


def stationary(tracks: Sequence[Track]) -> list[Workload]:
    """Each kind and temperature alone, all of its tracks twice over."""
    cells = sorted({(t.temperature, t.kind) for t in tracks})
    return [
        Workload(f"{kind}, {temperature:g}", False, 2 * [whole(t) for t in of(tracks, *cell)])
        for cell in cells
        for temperature, kind in [cell]
    ]


def switching(tracks: Sequence[Track]) -> list[Workload]:
    """Kinds by turns: within each request, and from request to request; in the last one, sampled
    and greedy requests too."""
    found = []
    temperatures = sorted({t.temperature for t in tracks})
    kinds = sorted({t.kind for t in tracks})
    for temperature in temperatures:
        rows = list(zip(*(of(tracks, temperature, kind) for kind in kinds), strict=True))
        found.append(Workload(f"within requests, {temperature:g}", True, [_turns(r) for r in rows]))
        mixed = [whole(track) for row in rows for track in row]
        found.append(Workload(f"between requests, {temperature:g}", True, mixed))
    columns = (of(tracks, temperature, kind) for temperature in temperatures for kind in kinds)
    everything = [whole(track) for row in zip(*columns, strict=True) for track in row]
    return [*found, Workload("between requests, all", True, everything)]


def _turns(tracks: Sequence[Track]) -> Request:
    """TURN tokens of each, then the next of each."""
    length = min(len(track.tokens) for track in tracks)
    return [
        Segment(track, start, min(start + TURN, length))
        for start in range(0, length, TURN)
        for track in tracks
    ]


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload at one load and cost: milliseconds a token with the best fixed length, and the
    shares of them that other policies take more."""

    workload: str
    is_switching: bool
    at_a_time: int
    costs: str
    num_tokens: int
    best_length: int
    best_ms: float
    plain: float
    climbing: float
    useful: float


def compare(workload: Workload, at_a_time: int, name: str, costs: Costs) -> Cell:
    """Each policy, from nothing, on one workload."""

    def spent(lengths: Lengths) -> float:
        replay = Replay(Learned(), lengths, costs)
        return replay.run(workload.requests, at_a_time).seconds_per_token

    fixed = {length: spent(Fixed(length)) for length in FIXED}
    best = min(fixed, key=lambda length: fixed[length])
    others = (spent(Fixed(0)), spent(Climbing()), spent(Useful()))
    num_tokens = sum(part.end - part.start for r in workload.requests for part in r)
    return Cell(
        workload.name,
        workload.is_switching,
        at_a_time,
        name,
        num_tokens,
        best,
        1e3 * fixed[best],
        *(seconds / fixed[best] - 1 for seconds in others),
    )


def report(cells: Sequence[Cell]) -> str:
    """The regrets, and their worst by kind of workload."""
    lines = [
        "| workload | at a time | target | best length | ms a token | plain | climb | useful |",
        "|---" * 8 + "|",
    ]
    for c in cells:
        shares = " | ".join(f"{100 * share:+.1f} %" for share in (c.plain, c.climbing, c.useful))
        lines.append(
            f"| {c.workload} | {c.at_a_time} | {c.costs} | {c.best_length} | {c.best_ms:.2f} "
            f"| {shares} |"
        )
    for is_switching, name in ((False, "stationary"), (True, "switching")):
        inside = [c for c in cells if c.is_switching == is_switching]
        worst = [
            f"{100 * max(column):+.1f} %"
            for column in zip(*((c.climbing, c.useful) for c in inside), strict=True)
        ]
        lines.append(f"| worst, {name} | | | | | | {' | '.join(worst)} |")
    return "\n".join(lines)


def draw(cells: Sequence[Cell], file: Path) -> None:
    """A dot for each workload and policy."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    for number, is_switching in enumerate((False, True)):
        inside = [c for c in cells if c.is_switching == is_switching]
        for policy, (label, shares) in enumerate(
            {
                "climb (the paper's)": [c.climbing for c in inside],
                "useful (default)": [c.useful for c in inside],
            }.items()
        ):
            heights = [number + 0.2 * policy + 0.004 * place for place in range(len(inside))]
            axes.scatter(
                [100 * s for s in shares],
                heights,
                s=14,
                color=f"C{policy}",
                label=label if number == 0 else None,
            )
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_yticks([0.15, 1.15], ["stationary", "switching"])
    axes.set_xlabel("regret against the best fixed length in hindsight, %")
    axes.legend()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)


def main() -> None:
    tracks = load(RESULTS / "record.npz")
    cells = []
    for workload in [*stationary(tracks), *switching(tracks)]:
        print(f"{workload.name} ...", flush=True)
        cells += [compare(workload, n, *costs) for n in AT_A_TIME for costs in COSTS.items()]
    print("votes and trees ...", flush=True)
    tables = {"votes": votes(tracks), "asking": asking(tracks), "trees": trees(tracks),
              "noise": noise(RESULTS / "noise.npz")}  # fmt: skip
    print(report(cells))
    for table in tables.values():
        print(f"\n{table.markdown()}")
    result = {"regret": [asdict(cell) for cell in cells],
              **{name: table.rows for name, table in tables.items()}}  # fmt: skip
    (RESULTS / "regret.json").write_text(json.dumps(result, indent=1) + "\n")
    if find_spec("matplotlib"):
        draw(cells, RESULTS / "regret.png")


if __name__ == "__main__":
    main()
