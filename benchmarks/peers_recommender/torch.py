"""PyTorch in inference mode: an embedding or a bag for each table, one for each width, compiled."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import embedding, embedding_bag, linear

from benchmarks.peers_recommender.tables import Tables, columns, load_tables
from benchmarks.peers_recommender.worker import FloatArray, IntArray, Setup, System, main

Tensors = Sequence[torch.Tensor]


class Mlp:
    """The dense part."""

    def __init__(self, weights: list[tuple[FloatArray, FloatArray]]) -> None:
        self._layers = [
            (torch.from_numpy(np.ascontiguousarray(weight.T)), torch.from_numpy(bias))
            for weight, bias in weights
        ]

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        *hidden, (last_weight, last_bias) = self._layers
        for weight, bias in hidden:
            values = linear(values, weight, bias).relu_()
        return linear(values, last_weight, last_bias)


class _Eager:
    """torch.nn.functional.embedding for each table, and torch.cat into a buffer."""

    does = ("lookup", "score")

    def __init__(self, tables: Tables, mlp: Mlp, max_batch: int) -> None:
        self._weights = [torch.from_numpy(array) for array in tables.arrays]
        self._mlp = mlp
        self._features = torch.zeros(max_batch, tables.width)

    def prepare(self, ids: IntArray) -> Tensors:
        return [torch.from_numpy(own) for own in columns(ids)]

    def lookup(self, ids: Tensors) -> torch.Tensor:
        rows = [embedding(own, weight) for own, weight in zip(ids, self._weights, strict=True)]
        return torch.cat(rows, 1, out=self._features[: len(ids[0])])

    def score(self, ids: Tensors) -> torch.Tensor:
        return self._mlp(self.lookup(ids))

    def array(self, found: torch.Tensor) -> FloatArray:
        return found.numpy()


class _Bag(_Eager):
    """torch.nn.functional.embedding_bag for each table, bags of one id."""

    def prepare(self, ids: IntArray) -> Tensors:
        return [torch.from_numpy(own.reshape(-1, 1)) for own in columns(ids)]

    def lookup(self, ids: Tensors) -> torch.Tensor:
        rows = [
            embedding_bag(own, weight, mode="sum")
            for own, weight in zip(ids, self._weights, strict=True)
        ]
        return torch.cat(rows, 1, out=self._features[: len(ids[0])])


class _Fused(_Eager):
    """All tables of one width behind one another, read by one embedding: ids are moved on by where
    their table begins."""

    def __init__(self, tables: Tables, mlp: Mlp, max_batch: int) -> None:
        super().__init__(tables, mlp, max_batch)
        self._groups = [group.tables for group in tables.fused]
        self._rows = [torch.from_numpy(group.rows) for group in tables.fused]
        self._firsts = [torch.from_numpy(group.firsts) for group in tables.fused]

    def prepare(self, ids: IntArray) -> Tensors:
        return [torch.from_numpy(np.ascontiguousarray(ids[:, group])) for group in self._groups]

    def lookup(self, ids: Tensors) -> torch.Tensor:
        rows = [
            embedding(own + firsts, weight).flatten(1)
            for own, firsts, weight in zip(ids, self._firsts, self._rows, strict=True)
        ]
        return torch.cat(rows, 1, out=self._features[: len(ids[0])])


class _Compiled(_Eager):
    """torch.compile of the first, for each size of a batch. Freezing the weights changed nothing
    beyond noise."""

    def __init__(self, tables: Tables, mlp: Mlp, max_batch: int) -> None:
        super().__init__(tables, mlp, max_batch)
        self.lookup = torch.compile(self._lookup, fullgraph=True, dynamic=False)
        self.score = torch.compile(self._score, fullgraph=True, dynamic=False)

    def _lookup(self, ids: Tensors) -> torch.Tensor:
        rows = [embedding(own, weight) for own, weight in zip(ids, self._weights, strict=True)]
        return torch.cat(rows, 1)

    def _score(self, ids: Tensors) -> torch.Tensor:
        return self._mlp(self._lookup(ids))


class Torch:
    """The engine."""

    version = f"torch {torch.__version__}"

    def load(self, setup: Setup) -> dict[str, System]:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(setup.work / "inductor"))
        torch.set_num_threads(setup.threads)
        # For good: entering it for each call would cost peers time.
        torch.inference_mode().__enter__()
        tables, mlp = load_tables(setup.tables), Mlp(setup.read_weights())
        ways = {"embedding": _Eager, "bag": _Bag, "fused": _Fused, "compile": _Compiled}
        return {f"torch:{name}": way(tables, mlp, setup.max_batch) for name, way in ways.items()}


if __name__ == "__main__":
    main(Torch())
