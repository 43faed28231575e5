"""Weights in bytes, as they lie beside a graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from shared.lm.compact import load_compact
from tests.drafter.random_llamas import SOME


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    for is_tied in (True, False):
        compact = replace(SOME, is_tied=is_tied).compact(1)
        compact.save(tmp_path)
        again = load_compact(tmp_path)
        assert (again.embedding is again.head) == is_tied
        for one, other in ((compact.embedding, again.embedding), (compact.head, again.head)):
            np.testing.assert_array_equal(one.weights, other.weights)
            np.testing.assert_array_equal(one.scales, other.scales)
        assert len(again.layers) == SOME.num_layers
        np.testing.assert_array_equal(compact.layers[1].down.weights, again.layers[1].down.weights)
        assert (again.epsilon, again.scale) == (compact.epsilon, compact.scale)
