"""A request by names, as ids: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from services.recommender.catalogue import Items
from services.recommender.features import ContextRows, Vocabulary, read_context
from services.recommender.layout import Layout
from services.recommender.query import Bags, Query
from services.recommender.wiring import Wiring


@dataclass(frozen=True, slots=True)
class Ranking:
    """A query, which items of the catalogue its own are, and how many of the request's values no
    row was trained for."""

    query: Query
    items: np.ndarray[tuple[int], np.dtype[np.integer]]
    num_unknown: int


class Names:
    """Words and items of a model."""

    def __init__(
        self, layout: Layout, wiring: Wiring, vocabularies: Sequence[Vocabulary], items: Items
    ) -> None:
        self.items = items
        self._layout = layout
        self._vocabularies = vocabularies
        self._exclude = layout.catalogue.exclude if layout.catalogue else None
        self._bags = wiring.bags
        self._columns = [f.name for f in layout.context_fields if f.name in wiring.columns]
        widths = [wiring.columns[name] for name in self._columns]
        self._split = max((place.stop for place in widths), default=0)
        self._end = self._split + len(layout.candidate_fields)

    def read(
        self, context: Mapping[str, Sequence[str]], candidates: Sequence[str] | None
    ) -> Ranking:
        """Without candidates: the whole catalogue but what `catalogue.exclude` rules out. Raises
        InvalidRequestError naming what has no row."""
        rows = read_context(self._layout.context_fields, self._vocabularies, context)
        items = (
            self.items.find(candidates)
            if candidates is not None
            else self.items.all_but(context.get(self._exclude or "", ()))
        )
        return self.ranking(rows, items)

    def ranking(
        self, rows: ContextRows, items: np.ndarray[tuple[int], np.dtype[np.integer]]
    ) -> Ranking:
        """Of a context's rows and items by number."""
        by_field = dict(zip((f.name for f in self._layout.context_fields), rows.rows, strict=True))
        ids = [row for name in self._columns for row in by_field[name]]
        blocks = [(slice(self._split, self._end), self.items.rows(items).astype(np.int64))]
        if ids:
            blocks.append((slice(0, self._split), np.array([ids], np.int64)))
        bags = [
            Bags(np.array(by_field[name], np.int64), np.array([0, len(by_field[name])], np.int64))
            for name in self._bags
        ]
        return Ranking(Query(len(items), blocks, bags), items, rows.num_unknown)
