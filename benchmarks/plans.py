"""python -m benchmarks.plans [--profile P]: what plans predict for a machine, beside what it does.

Twenty sets of tables, from a few small ones to more than the caches hold, each planned for the
profile and gathered as planned from an arena of zeros; then the paper's small model apart, as
planned here, and as planned for the paper's board. By turns, medians of all rounds, one thread.
Writes benchmarks/results/plans.json and, where matplotlib is installed, plans.png.
"""

from __future__ import annotations

import argparse
import json
import mmap
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.recommender.generate import read_shapes
from services.recommender.kernel import Kernel
from services.recommender.layout import FORMAT, Field, Layout, Lookup, Output, Table
from services.recommender.memory import HUGE_PAGE
from services.recommender.planner.profiles import U280, Profile
from services.recommender.planning import Limits, Planned, plan
from services.recommender.profile_file import DEFAULT, read_profile
from services.recommender.wiring import wire

RESULTS = Path(__file__).parent / "results"
NUM_SETS = 20
BATCH = 512
MAX_BYTES = 1_400_000_000


@dataclass(frozen=True, slots=True)
class Found:
    """Of one set of tables, in one way of storing them."""

    name: str
    num_tables: int
    num_stored: int
    num_bytes: int
    predicted_ns: float
    ns: float
    ns_from: float
    ns_to: float


class Gather:
    """A plan, ready to be timed."""

    def __init__(self, name: str, tables: list[Table], planned: Planned, distance: int) -> None:
        self.name, self.planned = name, planned
        self._tables = tables
        layout = _layout(tables, planned, distance)
        size = layout.num_bytes
        region = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        region.madvise(mmap.MADV_HUGEPAGE)
        whole = np.frombuffer(region, np.uint8)
        first = -whole.ctypes.data % HUGE_PAGE
        arena = whole[first : first + size]
        arena[:: mmap.PAGESIZE] = 0
        self._kernel = Kernel(wire(layout).program, arena, distance)
        self._output = np.zeros((BATCH, layout.num_features), np.float32)
        self._outputs = np.array([self._output.ctypes.data], np.int64)
        self._missing = np.zeros(len(tables), np.int64)
        self.ns: list[float] = []

    def run(self, rng: np.random.Generator, num_calls: int) -> None:
        """So many calls with fresh ids each; the first warms up."""
        for call in range(num_calls + 1):
            ids = np.stack([rng.integers(0, t.num_rows, BATCH) for t in self._tables], axis=1)
            started = time.perf_counter_ns()
            self._kernel.gather(
                *(ids.ctypes.data, BATCH),
                *(self._outputs.ctypes.data, self._missing.ctypes.data),
            )
            if call:
                self.ns.append((time.perf_counter_ns() - started) / BATCH)

    def found(self) -> Found:
        return Found(
            self.name,
            len(self._tables),
            len(self.planned.stored),
            sum(stored.num_bytes for stored in self.planned.stored),
            round(self.planned.ns, 1),
            *(round(float(np.percentile(self.ns, share)), 1) for share in (50, 10, 90)),
        )


def _layout(tables: list[Table], planned: Planned, distance: int) -> Layout:
    """Each table is read by a field of its own, once."""
    fields, lookups = _read(tables)
    width = sum(table.dim for table in tables)
    return Layout(
        *(FORMAT, fields, tables, lookups, [Output("features", width, [width])], []),
        *(planned.stored, "", "", None, None, "", distance, {}),
    )


def _read(tables: list[Table]) -> tuple[list[Field], list[Lookup]]:
    fields = [Field(table.name, "item", table.num_rows, 1, "default") for table in tables]
    places = np.cumsum([0, *(table.dim for table in tables)]).tolist()
    lookups = [
        Lookup(table.name, table.name, None, 0, place)
        for table, place in zip(tables, places, strict=False)
    ]
    return fields, lookups


def gather(
    name: str, tables: list[Table], profile: Profile, growth: float, distance: int
) -> Gather:
    fields, lookups = _read(tables)
    planned = plan(fields, tables, lookups, profile, Limits(max_growth=growth))
    return Gather(name, tables, planned, distance)


def random_tables(rng: np.random.Generator) -> list[Table]:
    """Few or many, of any size, not beyond a limit together."""
    largest = rng.uniform(3, 7)
    found: list[Table] = []
    num_bytes = 0
    for number in range(int(rng.integers(4, 90))):
        num_rows, dim = int(10 ** rng.uniform(2, largest)), int(rng.choice([4, 8, 16, 32, 64]))
        if num_bytes + num_rows * dim * 4 < MAX_BYTES:
            found.append(Table(f"t{number}", num_rows, dim))
            num_bytes += num_rows * dim * 4
    return found


def small_model() -> list[Table]:
    """The paper's."""
    sizes = [
        (dim, rows)
        for dim, rows, count in read_shapes().small.embedding_tables
        for _ in range(count)
    ]
    return [Table(f"t{number}", rows, dim) for number, (dim, rows) in enumerate(sizes)]


def rank_correlation(first: list[float], second: list[float]) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def measure(profile: Profile, num_rounds: int) -> tuple[list[Found], list[Found]]:
    rng = np.random.default_rng(0)
    sets = []
    for number in range(NUM_SETS):
        one = gather(f"set {number}", random_tables(rng), profile, 0.05, profile.distance)
        for _ in range(3):
            one.run(rng, num_rounds)
        sets.append(one.found())
        print(sets[-1], flush=True)
    tables = small_model()
    ways = [
        gather("small, each apart", tables, profile, 0.0, profile.distance),
        gather("small, as planned here", tables, profile, 0.05, profile.distance),
        gather("small, as planned for u280", tables, U280, 0.05, profile.distance),
    ]
    for _ in range(num_rounds):
        for way in ways:
            way.run(rng, 3)
    return sets, [way.found() for way in ways]


def draw(sets: list[Found], file: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 5))
    x = np.array([one.predicted_ns for one in sets])
    y = np.array([one.ns for one in sets])
    spread: npt.NDArray[np.float64] = np.array(
        [[one.ns - one.ns_from, one.ns_to - one.ns] for one in sets]
    ).T
    axes.errorbar(x, y, yerr=np.maximum(spread, 0), fmt="o", markersize=4)
    limits = [0.8 * min(x.min(), y.min()), 1.2 * max(x.max(), y.max())]
    axes.plot(limits, limits, color="grey", linewidth=0.5)
    axes.set(
        xscale="log", yscale="log", xlabel="predicted ns an item", ylabel="measured ns an item"
    )
    figure.tight_layout()
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default=DEFAULT)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS / "plans.json")
    arguments = parser.parse_args()
    profile = read_profile(arguments.profile)
    sets, ways = measure(profile, arguments.rounds)
    correlation = rank_correlation([s.predicted_ns for s in sets], [s.ns for s in sets])
    for way in ways:
        print(way)
    print(f"rank correlation of {len(sets)} sets: {correlation:.3f}")
    content = {
        "profile": profile.name,
        "rank_correlation": round(correlation, 4),
        "sets": [asdict(one) for one in sets],
        "small_model": [asdict(way) for way in ways],
    }
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    if find_spec("matplotlib"):
        draw(sets, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
