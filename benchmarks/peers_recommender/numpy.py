"""numpy, by one thread but in its matrix products: rows by fancy indexing, or by np.take."""

from __future__ import annotations

import numpy as np

from benchmarks.peers_recommender.tables import Tables, columns, load_tables
from benchmarks.peers_recommender.worker import FloatArray, IntArray, Setup, System, main


class _Fancy:
    """Rows by index, then side by side."""

    does = ("lookup", "score")

    def __init__(
        self, tables: Tables, weights: list[tuple[FloatArray, FloatArray]], max_batch: int
    ) -> None:
        self._arrays = tables.arrays
        self._weights = weights
        self._features = np.zeros((max_batch, tables.width), np.float32)
        self._hidden = [np.zeros((max_batch, len(bias)), np.float32) for _, bias in weights]

    def prepare(self, ids: IntArray) -> list[IntArray]:
        return list(columns(ids))

    def lookup(self, ids: list[IntArray]) -> FloatArray:
        out = self._features[: len(ids[0])]
        rows = [array[own] for array, own in zip(self._arrays, ids, strict=True)]
        return np.concatenate(rows, axis=1, out=out)

    def score(self, ids: list[IntArray]) -> FloatArray:
        values = self.lookup(ids)
        last = len(self._weights) - 1
        for number, (weight, bias) in enumerate(self._weights):
            out = self._hidden[number][: len(values)]
            np.matmul(values, weight, out=out)
            out += bias
            if number < last:
                np.maximum(out, 0, out=out)
            values = out
        return values

    def array(self, found: FloatArray) -> FloatArray:
        return found


class _Take(_Fancy):
    """Rows by np.take, each table's into its own buffer, then side by side."""

    def __init__(
        self, tables: Tables, weights: list[tuple[FloatArray, FloatArray]], max_batch: int
    ) -> None:
        super().__init__(tables, weights, max_batch)
        self._buffers = [np.zeros((max_batch, a.shape[1]), np.float32) for a in tables.arrays]

    def lookup(self, ids: list[IntArray]) -> FloatArray:
        num = len(ids[0])
        rows = []
        for array, own, buffer in zip(self._arrays, ids, self._buffers, strict=True):
            out = buffer[:num]
            # Any other mode than `clip` goes through a copy of `out`.
            np.take(array, own, axis=0, out=out, mode="clip")
            rows.append(out)
        return np.concatenate(rows, axis=1, out=self._features[:num])


class Numpy:
    """The engine."""

    version = f"numpy {np.__version__}"

    def load(self, setup: Setup) -> dict[str, System]:
        tables, weights = load_tables(setup.tables), setup.read_weights()
        return {
            "numpy:index": _Fancy(tables, weights, setup.max_batch),
            "numpy:take": _Take(tables, weights, setup.max_batch),
        }


if __name__ == "__main__":
    main(Numpy())
