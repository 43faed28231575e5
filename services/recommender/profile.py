"""python -m services.recommender.profile OUT.json [--name N] [--quick]

Measures what lookups cost on this machine, through its caches into memory, with rows of several
lengths, on small and on huge pages, on one thread and on all, and writes the profile that plans
are made for; with matplotlib, a plot beside it. Times are those of the gather that serves.
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.recommender.kernel import Kernel
from services.recommender.memory import HUGE_PAGE
from services.recommender.planner.profiles import Caches
from services.recommender.profile_file import save_profile
from services.recommender.program import Access, Column, Program, Read
from shared.command_line import parser_of
from shared.machine import num_usable_cores

ROW_BYTES = (16, 32, 64, 128, 256)
MIN_FOOTPRINT = 16 << 10
DISTANCES = (0, 1, 2, 3, 4, 6, 8, 12, 15)
LOOKUPS = 32
"""An item's, in one measurement."""
ITEMS = 256
"""Of one call: its rows and its output stay in the second cache beside a small table."""
ROUNDS = 9
PASSES = 3
"""Over all footprints, some time apart."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Nanoseconds a lookup by footprint and row length."""

    pages: str
    num_threads: int
    ns: list[list[float]]


class Bench:
    """Random lookups in a region of memory."""

    def __init__(self, num_bytes: int, is_huge: bool) -> None:
        self._region = mmap.mmap(-1, num_bytes + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON)
        self._region.madvise(mmap.MADV_HUGEPAGE if is_huge else mmap.MADV_NOHUGEPAGE)
        whole = np.frombuffer(self._region, np.uint8)
        first = -whole.ctypes.data % HUGE_PAGE
        self._arena = whole[first : first + num_bytes]
        self._arena[:: mmap.PAGESIZE] = 0
        self._rng = np.random.default_rng(0)

    def ns(self, footprint: int, row_bytes: int, num_threads: int, distance: int) -> float:
        """Median nanoseconds of a lookup."""
        num_rows, dim = footprint // row_bytes, row_bytes // 4
        reads = [Read(k, 1, 0, dim, 0, k * dim) for k in range(LOOKUPS)]
        program = Program(
            (Column(num_rows),) * LOOKUPS,
            tuple(Access(0, row_bytes, "fp32", (read,)) for read in reads),
            (LOOKUPS * dim,),
        )
        kernel = Kernel(program, self._arena, distance)
        # Enough different ids that a large table's rows are not in a cache from the last round.
        batches = [
            self._rng.integers(0, num_rows, (ITEMS, LOOKUPS)) for _ in range(ROUNDS * num_threads)
        ]
        hands = [_Hand(kernel, LOOKUPS * dim) for _ in range(num_threads)]
        with ThreadPoolExecutor(num_threads) as threads:
            shares = [batches[k::num_threads] for k in range(num_threads)]
            return float(np.median([*threads.map(_Hand.time, hands, shares)]))


class _Hand:
    def __init__(self, kernel: Kernel, width: int) -> None:
        self._kernel = kernel
        self._output = np.zeros((ITEMS, width), np.float32)
        self._outputs = np.array([self._output.ctypes.data], np.int64)
        self._missing = np.zeros(LOOKUPS, np.int64)

    def time(self, batches: list[npt.NDArray[np.int64]]) -> float:
        found = []
        for ids in batches:
            started = time.perf_counter_ns()
            self._kernel.gather(
                ids.ctypes.data, ITEMS, self._outputs.ctypes.data, self._missing.ctypes.data
            )
            found.append(time.perf_counter_ns() - started)
        return float(np.median(found)) / (ITEMS * LOOKUPS)


def footprints(most: int) -> list[int]:
    """Powers of two."""
    found = [MIN_FOOTPRINT]
    while found[-1] * 2 <= most:
        found.append(found[-1] * 2)
    return found


def ascending(ns: npt.NDArray[np.float64]) -> list[list[float]]:
    """As measured [footprints, row lengths], but no cell above a larger footprint's or a longer
    row's: what else ran at that moment is no property of the machine."""
    for axis in (0, 1):
        ns = np.flip(np.minimum.accumulate(np.flip(ns, axis), axis), axis)
    return [[float(value) for value in row] for row in ns]


def cache_levels() -> list[tuple[str, int]]:
    """Names and bytes of the caches of the first core, and of the memory."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (index / "type").read_text().strip() != "Instruction":
            size = (index / "size").read_text().strip()
            found[f"L{(index / 'level').read_text().strip()}"] = int(size[:-1]) << 10
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return [*sorted(found.items(), key=lambda item: item[1]), ("DRAM", memory)]


def measure(name: str, most: int, threads: int) -> tuple[Caches, list[Curve]]:
    """The profile, and all curves; progress goes to standard error."""
    sizes = footprints(most)
    bench = Bench(most, is_huge=True)
    tried = {d: min(bench.ns(most, 64, 1, d) for _ in range(PASSES)) for d in DISTANCES}
    best = min(tried, key=lambda d: tried[d])
    _say("prefetch distance " + ", ".join(f"{d}: {ns:.1f} ns" for d, ns in tried.items()))
    curves = []
    for pages in ("2 MiB", "4 KiB"):
        bench = Bench(most, is_huge=pages == "2 MiB")
        for num_threads in sorted({1, threads}):
            passes = []
            for number in range(PASSES):
                passes.append(
                    [
                        [bench.ns(s, length, num_threads, best) for length in ROW_BYTES]
                        for s in sizes
                    ]
                )
                _say(f"{pages} pages, {num_threads} threads: pass {number + 1} of {PASSES}")
            curves.append(Curve(pages, num_threads, ascending(np.median(passes, axis=0))))
            for size, row in zip(sizes, curves[-1].ns, strict=True):
                _say(f"{size >> 10:>9} KiB: " + " ".join(f"{ns:6.2f}" for ns in row))
    return (
        Caches(
            name,
            tuple(sizes),
            ROW_BYTES,
            tuple(tuple(round(ns, 3) for ns in row) for row in curves[0].ns),
            tuple(cache_levels()),
            best,
        ),
        curves,
    )


def draw(profile: Caches, curves: list[Curve], file: Path) -> None:
    """Cost against footprint, for rows of 64 bytes."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    column = ROW_BYTES.index(64)
    for curve in curves:
        label = f"{curve.pages} pages, {curve.num_threads} thread{'s' * (curve.num_threads > 1)}"
        axes.plot(profile.footprints, [row[column] for row in curve.ns], marker=".", label=label)
    for name, size in profile.levels[:-1]:
        axes.axvline(size, color="grey", linewidth=0.5)
        axes.annotate(name, (size, axes.get_ylim()[1]), fontsize=8)
    axes.set(xscale="log", xlabel="bytes of all tables together", ylabel="ns a lookup, 64 bytes")
    axes.legend()
    figure.tight_layout()
    figure.savefig(file)


def main(argv: list[str] | None = None) -> int:
    parser = parser_of("services.recommender.profile", __doc__)
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument("--name", help="of the machine; the file's name if left out")
    parser.add_argument("--most", type=int, default=2 << 30, help="bytes of the largest footprint")
    parser.add_argument("--threads", type=int, default=num_usable_cores())
    arguments = parser.parse_args(argv)
    profile, curves = measure(
        arguments.name or arguments.out.stem, arguments.most, arguments.threads
    )
    save_profile(profile, arguments.out)
    print(f"{arguments.out}: {profile.lookup_ns(arguments.most, 64):.1f} ns for 64 random bytes")
    if find_spec("matplotlib"):
        draw(profile, curves, arguments.out.with_suffix(".png"))
    return 0


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
