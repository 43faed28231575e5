"""Quorum: the gather alone, and the engine with its dense part in fp32 and in int8; beside them
what this machine could do at most (touching.py)."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata

import numpy as np

from benchmarks.peers_recommender.touching import ByTable, by_item
from benchmarks.peers_recommender.worker import FloatArray, IntArray, Setup, System, main
from services.recommender.engine import Engine
from services.recommender.kernel import Kernel
from services.recommender.layers import read_layers
from services.recommender.machine_code import RING
from services.recommender.manifest import load_manifest
from services.recommender.memory import map_arena
from services.recommender.query import Query
from services.recommender.wiring import wire

Call = tuple[int, int, int, int]
"""What a kernel takes, addresses as the engine has worked them out beforehand."""
MAX_COLUMNS = 1024
SPLIT_ITEMS = 512
"""From which on two threads share a gather."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Each thread's call, and the arrays that the addresses are of."""

    calls: list[Call]
    kept: list[IntArray]
    num_items: int


class _Gather:
    """A kernel, by one thread or shared out among two."""

    does = ("lookup",)

    def __init__(
        self,
        kernel: Kernel | ByTable,
        width: int,
        setup: Setup,
        threads: ThreadPoolExecutor,
        split_items: int,
    ) -> None:
        """From `split_items` on there are two threads: the caller's, and the one of `threads`."""
        self._kernel = kernel
        self._threads = threads
        self._split_items = split_items
        self._output = np.zeros((setup.max_batch, width), np.float32)
        self._missing = np.zeros((2, MAX_COLUMNS), np.int64)

    def prepare(self, ids: IntArray) -> _Prepared:
        num = len(ids)
        bounds = [0, num] if num < self._split_items else [0, -(-num // 2), num]
        calls: list[Call] = []
        kept: list[IntArray] = []
        for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
            own, address = self._ids(ids[start:stop])
            places = np.array([self._output[start:].ctypes.data], np.int64)
            kept += [*own, places]
            missing = self._missing[number].ctypes.data
            calls.append((address, stop - start, places.ctypes.data, missing))
        return _Prepared(calls, kept, num)

    def _ids(self, ids: IntArray) -> tuple[list[IntArray], int]:
        """Arrays, and the address of what the kernel takes."""
        if isinstance(self._kernel, Kernel):
            own = np.ascontiguousarray(ids)
            return [own], own.ctypes.data
        arrays = [np.ascontiguousarray(ids[:, columns]) for columns in self._kernel.columns]
        addresses = np.array([array.ctypes.data for array in arrays], np.int64)
        return [*arrays, addresses], addresses.ctypes.data

    def lookup(self, ids: _Prepared) -> int:
        own, *others = ids.calls
        waiting = [self._threads.submit(self._kernel.gather, *call) for call in others]
        self._kernel.gather(*own)
        for future in waiting:
            future.result()
        return ids.num_items

    def score(self, ids: _Prepared) -> int:
        raise NotImplementedError  # see `does`: it is not asked for scores

    def array(self, found: int) -> FloatArray:
        return self._output[:found]


class _Scores:
    """The engine, asked for one query at a time."""

    does = ("score",)

    def __init__(self, engine: Engine, num_columns: int) -> None:
        self._engine = engine
        self._columns = slice(0, num_columns)

    def prepare(self, ids: IntArray) -> list[Query]:
        return [Query(len(ids), [(self._columns, ids)])]

    def lookup(self, ids: list[Query]) -> FloatArray:
        raise NotImplementedError  # see `does`: it is not asked for lookups

    def score(self, ids: list[Query]) -> FloatArray:
        return self._engine.score(ids)[0][0]

    def array(self, found: FloatArray) -> FloatArray:
        return found


class Quorum:
    """All of it, on one arena."""

    version = (
        f"onnxruntime {metadata.version('onnxruntime')}, llvmlite {metadata.version('llvmlite')}"
    )

    def load(self, setup: Setup) -> dict[str, System]:
        folder = setup.served["fp32"]
        layout = load_manifest(folder)
        # In the process's own memory, as the peers' tables are: huge pages are there on more
        # machines than of a file.
        arena = map_arena(folder / layout.arena, layout.num_bytes, "copied")
        program = wire(layout).program
        width, num_columns = sum(program.widths), len(program.columns)
        kernel = Kernel(program, arena.bytes, layout.distance)
        touching = by_item(program)
        threads = ThreadPoolExecutor(max(1, setup.threads - 1))

        def gather(kernel: Kernel | ByTable, split_items: int = SPLIT_ITEMS) -> _Gather:
            return _Gather(kernel, width, setup, threads, split_items)

        systems: dict[str, System] = {
            "quorum": gather(kernel),
            "quorum:1-thread": gather(kernel, setup.max_batch + 1),
            "quorum:2-threads": gather(kernel, 2),
            "limit:by-item": gather(Kernel(touching, arena.bytes, RING - 1)),
            "limit:by-table": gather(ByTable(program, arena.bytes)),
        }
        for precision, served in setup.served.items():
            # The same tables, and the dense part of each.
            own = load_manifest(served)
            layers = read_layers(served / own.layers) if own.layers else None
            engine = Engine(*(layout, arena, served / own.dense, layers), num_threads=setup.threads)
            systems[f"quorum:{precision}"] = _Scores(engine, num_columns)
        return systems


if __name__ == "__main__":
    main(Quorum())
