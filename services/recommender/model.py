"""A loaded ranking model: from names or tensors to scores, many requests in one pass.

Knows no bus and no files. `score` blocks and is called from one thread; reading from any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from services.recommender.engine import Engine
from services.recommender.layout import Layout
from services.recommender.names import Names, Ranking
from services.recommender.query import Query
from services.recommender.tensors import Array, Tensors
from shared.errors import InvalidRequestError

FloatArray = npt.NDArray[np.float32]


class Model:
    """What a folder holds, ready to score."""

    def __init__(
        self,
        layout: Layout,
        version: str,
        digest: str,
        engine: Engine,
        tensors: Tensors,
        names: Names | None,
    ) -> None:
        self.layout = layout
        self.version = version
        """What it is called where several are served."""
        self.digest = digest
        """Changes whenever any file of the model does."""
        self.engine = engine
        self._tensors = tensors
        self._names = names

    @property
    def names(self) -> Names:
        """Raises InvalidRequestError for a model that knows no names."""
        if self._names is None:
            raise InvalidRequestError(
                "this model knows no names; send its inputs "
                f"({', '.join(tensor.name for tensor in self.layout.inputs)}) as tensors"
            )
        return self._names

    @property
    def num_items(self) -> int:
        """Of the catalogue; 0 without one."""
        return self._names.items.num_items if self._names else 0

    def read(
        self, context: Mapping[str, Sequence[str]], candidates: Sequence[str] | None
    ) -> Ranking:
        """A request by names. Raises InvalidRequestError."""
        return self.names.read(context, candidates)

    def read_tensors(self, inputs: Mapping[str, Array], max_items: int) -> Query:
        """A request by numbers. Raises InvalidRequestError."""
        return self._tensors.read(inputs, max_items)

    def score(self, queries: Sequence[Query]) -> list[list[FloatArray]]:
        """For each query the outputs [num_items, ...] of the dense graph."""
        return self.engine.score(queries)

    def rank(self, queries: Sequence[Query]) -> list[FloatArray]:
        """For each query the first output as one score an item [num_items]."""
        return [np.reshape(outputs[0], len(outputs[0])) for outputs in self.score(queries)]
