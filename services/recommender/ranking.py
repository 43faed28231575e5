"""The best of scored items: pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def top(scores: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.intp]:
    """Places of the k highest scores, best first; of equal scores the earlier place comes first.
    All places where there are no more than k."""
    return np.argsort(-scores, kind="stable")[:k]
