"""A loaded ranking model: from names to scores, many requests in one pass.

Knows no bus and no files. `score` blocks and is called from one thread; `read` from any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.recommender.catalogue import Items
from services.recommender.features import ContextRows, Vocabulary, read_context
from services.recommender.layout import Layout
from services.recommender.mlp import Mlp
from services.recommender.tables import look_up, pool

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Query:
    """One request to score: `items` are catalogue numbers."""

    context: ContextRows
    items: IntArray


class Model:
    """Scores queries in passes of at most `max_rows` items, through one reused input buffer."""

    def __init__(
        self,
        layout: Layout,
        version: str,
        tables: Mapping[str, FloatArray],
        vocabularies: Sequence[Vocabulary],
        items: Items,
        mlp: Mlp,
        max_rows: int,
    ) -> None:
        self.layout = layout
        self.version = version
        self.items = items
        self._tables = tables
        self._vocabularies = vocabularies
        self._mlp = mlp
        self._buffer = np.zeros((max(max_rows, 2), layout.num_features), np.float32)

    def read(self, context: Mapping[str, Sequence[str]], candidates: Sequence[str] | None) -> Query:
        """A request's names as rows. Without candidates: the whole catalogue but what
        `catalogue.exclude` rules out. Raises InvalidRequestError naming what has no row."""
        rows = read_context(self.layout.context_fields, self._vocabularies, context)
        if candidates is not None:
            return Query(rows, self.items.find(candidates))
        return Query(rows, self.items.all_but(context.get(self.layout.catalogue.exclude or "", ())))

    def score(self, queries: Sequence[Query]) -> list[FloatArray]:
        """For each query the scores of its items, the same bits whatever is scored with it."""
        context = self._pool([query.context for query in queries])
        lengths = [len(query.items) for query in queries]
        owner = np.repeat(np.arange(len(queries)), lengths)
        items = np.concatenate([query.items for query in queries]) if queries else owner
        scores = np.empty(len(items), np.float32)
        for start in range(0, len(items), len(self._buffer)):
            part = slice(start, start + len(self._buffer))
            scores[part] = self._pass(context[owner[part]], self.items.rows(items[part]))
        return np.split(scores, np.cumsum(lengths)[:-1]) if queries else []

    def _pool(self, contexts: Sequence[ContextRows]) -> FloatArray:
        fields = self.layout.context_fields
        width = sum(self.layout.table(field.table).dim for field in fields)
        out = np.empty((len(contexts), width), np.float32)
        start = 0
        for number, field in enumerate(fields):
            table = self._tables[field.table]
            stop = start + table.shape[1]
            bags = [context.rows[number] for context in contexts]
            pool(table, bags, field.pooling, out[:, start:stop])
            start = stop
        return out

    def _pass(self, context: FloatArray, rows: IntArray) -> FloatArray:
        num_rows, start = context.shape
        features = self._buffer[:num_rows]
        features[:, :start] = context
        for number, field in enumerate(self.layout.candidate_fields):
            table = self._tables[field.table]
            stop = start + table.shape[1]
            look_up(table, rows[:, number], features[:, start:stop])
            start = stop
        if num_rows > 1:
            return self._mlp.score(features)
        # onnxruntime computes a lone row by another kernel, with other bits (ARCHITECTURE.md).
        self._buffer[1] = self._buffer[0]
        return self._mlp.score(self._buffer[:2])[:1]
