"""The part of an imported graph that makes ids of its inputs: columns chosen, offsets added.

With dense.py, one of the two modules of the recommender that know onnxruntime.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.recommender.dense import open_session
from shared.errors import InvalidRequestError

IntArray = npt.NDArray[np.int64]
_TYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32}


class IdGraph:
    """A loaded graph of int64 outputs."""

    def __init__(self, file: Path) -> None:
        """Raises ModelError if it does not load."""
        self._session = open_session(file)
        self._kinds = {i.name: i.type for i in self._session.get_inputs()}
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, IntArray]:
        """Raises InvalidRequestError where the graph cannot take them."""
        feed = {name: inputs[name].astype(_TYPES[kind]) for name, kind in self._kinds.items()}
        try:
            found = self._session.run(self._names, feed)
        except Exception as error:  # onnxruntime's errors have no common base
            raise InvalidRequestError(f"the ids do not fit the model's graph: {error}") from error
        return dict(zip(self._names, found, strict=True))
