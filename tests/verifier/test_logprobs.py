"""Log probabilities are those of the logits, whatever else is in the pass."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from services.verifier.logprobs import logprobs


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(0, 20), st.booleans())
def test_they_are_scipys_and_sorted(seed: int, rows: int, num_top: int, has_ties: bool) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 5, (rows + 1, 50)).astype(np.float32)
    if has_ties:
        logits = np.round(logits)
    tokens = rng.integers(0, 50, rows).tolist()
    expected = log_softmax(logits.astype(np.float64), axis=1)
    found = logprobs(logits, tokens, num_top)
    assert len(found) == rows
    for row, token, told in zip(expected, tokens, found, strict=False):
        assert np.isclose(told.logprob, row[token])
        assert told.top_tokens == sorted(range(50), key=lambda t: (-row[t], t))[:num_top]
        assert np.allclose(told.top_logprobs, row[told.top_tokens])
        assert told.rank == 1 + sorted(range(50), key=lambda t: (-row[t], t)).index(token)


def test_a_token_that_cannot_be_is_told_as_such() -> None:
    logits = np.array([[0.0, -np.inf, 1.0]], np.float32)
    (told,) = logprobs(logits, [1], 3)
    assert told.logprob == -np.inf
    assert told.top_tokens == [2, 0, 1]
