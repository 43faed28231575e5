"""ONNX Runtime with the whole model as one graph: a Gather for each table, a Concat, the MLP.

Nodes run one after the other, each by all threads: side by side (ORT_PARALLEL) the graph's small
nodes took five times as long and more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.peers_recommender.tables import Tables, columns, load_tables
from benchmarks.peers_recommender.worker import FloatArray, IntArray, Setup, System, main


@dataclass(frozen=True, slots=True)
class _Bound:
    """A batch for both sessions, and the ids that they point to."""

    lookup: onnxruntime.IOBinding
    score: onnxruntime.IOBinding
    ids: Sequence[IntArray]


class _Graphs:
    """A session for each graph; ids and outputs are bound where they lie."""

    does = ("lookup", "score")

    def __init__(self, tables: Tables, setup: Setup) -> None:
        self._tables = [onnxruntime.OrtValue.ortvalue_from_numpy(a) for a in tables.arrays]
        self._lookup = self._open(setup.graphs / "lookup.onnx", setup.threads)
        self._score = self._open(setup.graphs / "score.onnx", setup.threads)
        self._features = np.zeros((setup.max_batch, tables.width), np.float32)
        self._scores = np.zeros((setup.max_batch, 1), np.float32)

    def _open(self, graph: Path, threads: int) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        names = [f"table{number}" for number in range(len(self._tables))]
        # The tables that are in memory already, on huge pages, instead of mapped files.
        options.add_external_initializers(names, self._tables)
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def prepare(self, ids: IntArray) -> _Bound:
        own = columns(ids)
        return _Bound(
            self._bind(self._lookup, own, self._features[: len(ids)]),
            self._bind(self._score, own, self._scores[: len(ids)]),
            own,
        )

    def _bind(
        self, session: onnxruntime.InferenceSession, ids: Sequence[IntArray], out: FloatArray
    ) -> onnxruntime.IOBinding:
        binding = session.io_binding()
        for number, own in enumerate(ids):
            place = own.ctypes.data
            binding.bind_input(f"ids{number}", "cpu", 0, np.int64, own.shape, place)
        name = session.get_outputs()[0].name
        binding.bind_output(name, "cpu", 0, np.float32, out.shape, out.ctypes.data)
        return binding

    def lookup(self, ids: _Bound) -> FloatArray:
        self._lookup.run_with_iobinding(ids.lookup)
        return self._features[: len(ids.ids[0])]

    def score(self, ids: _Bound) -> FloatArray:
        self._score.run_with_iobinding(ids.score)
        return self._scores[: len(ids.ids[0])]

    def array(self, found: FloatArray) -> FloatArray:
        return found


class OnnxRuntime:
    """The engine."""

    version = f"onnxruntime {onnxruntime.__version__}"

    def load(self, setup: Setup) -> dict[str, System]:
        return {"onnxruntime": _Graphs(load_tables(setup.tables), setup)}


if __name__ == "__main__":
    main(OnnxRuntime())
