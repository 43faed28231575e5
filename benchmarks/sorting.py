"""python -m benchmarks.sorting: what it brings to store rows by how often they are read.

Eight tables of a million rows, whose ids are drawn by Zipf's law and scattered over the tables;
stored in the order of their ids, and by frequency, with the lookup of the row that an id reads
(services/recommender/sorting.py) included. By turns; medians, with minima and maxima.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

from benchmarks.peers_recommender.tables import memory
from services.recommender.kernel import Kernel
from services.recommender.program import Access, Column, Program, Read
from services.recommender.sorting import Order, by_frequency

NUM_ROWS, NUM_TABLES, BATCH, ROUNDS = 1_000_000, 8, 2048, 60
DIMS, EXPONENTS = (4, 8, 16, 32), (0.8, 1.05)
DISTANCE = 12

IntArray = npt.NDArray[np.int64]


class Tables:
    """A gather over tables of one width, in two orders. Values are zeros: places are timed."""

    def __init__(self, dim: int, orders: Sequence[Order] = ()) -> None:
        size = NUM_ROWS * dim * 4
        arena = memory(NUM_TABLES * (size // 4 + NUM_ROWS)).view(np.uint8)
        arena[::4096] = 0
        first = NUM_TABLES * size
        for number, order in enumerate(orders):
            arena[first + number * order.nbytes :][: order.nbytes] = order.view(np.uint8)
        program = Program(
            tuple(
                Column(NUM_ROWS, order=first + 4 * NUM_ROWS * number if orders else None)
                for number in range(NUM_TABLES)
            ),
            tuple(
                Access(number * size, dim * 4, "fp32", (Read(number, 1, 0, dim, 0, number * dim),))
                for number in range(NUM_TABLES)
            ),
            (NUM_TABLES * dim,),
        )
        self._kernel = Kernel(program, arena, DISTANCE)
        self._out = np.zeros((BATCH, NUM_TABLES * dim), np.float32)
        self._places = np.array([self._out.ctypes.data], np.int64)
        self._missing = np.zeros(NUM_TABLES, np.int64)

    def ns_a_row(self, ids: IntArray) -> float:
        started = time.perf_counter()
        self._kernel.gather(
            *(ids.ctypes.data, BATCH, self._places.ctypes.data, self._missing.ctypes.data)
        )
        return (time.perf_counter() - started) * 1e9 / ids.size


def main() -> None:
    rng = np.random.default_rng(0)
    print("ns a row, median (least to most)\n")
    print(
        "| bytes of a row | Zipf's exponent | by id | by frequency | gain |\n|---|---|---|---|---|"
    )
    for dim, exponent in product(DIMS, EXPONENTS):
        weights = 1 / np.arange(1, NUM_ROWS + 1) ** exponent
        shares = np.cumsum(weights / weights.sum())
        id_of = [rng.permutation(NUM_ROWS) for _ in range(NUM_TABLES)]
        orders = [by_frequency(np.round(weights[np.argsort(ids)] * 1e9)) for ids in id_of]
        spent: list[tuple[Tables, list[float]]] = [(Tables(dim), []), (Tables(dim, orders), [])]
        for _ in range(ROUNDS):
            for tables, times in spent:
                ranks = np.searchsorted(shares, rng.random((NUM_TABLES, BATCH))) % NUM_ROWS
                drawn = [own[rank] for own, rank in zip(id_of, ranks, strict=True)]
                times.append(tables.ns_a_row(np.ascontiguousarray(np.stack(drawn, axis=1))))
        before, after = (times[ROUNDS // 10 :] for _, times in spent)
        gain = statistics.median(before) / statistics.median(after)
        print(
            f"| {dim * 4} | {exponent} | {_cell(before)} | {_cell(after)} | {gain:.2f} |",
            flush=True,
        )


def _cell(times: list[float]) -> str:
    return f"{statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f})"


if __name__ == "__main__":
    main()
