"""Are a row's logits the same bits whatever shares its pass? Checked on the machine at hand.

Exact reproducibility rests on it: batch composition, speculation length and chunking then change
no token. It held on every CPU that was tried and, in runs of one size, on a GPU
(in_place_decoder.py), but it is a property of kernels, not a law.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.lm.decoder import Decoder, FloatArray, Row

NUM_TOKENS = 24
CHUNKS = ([1, 1, 1, 1, 1, 1, 18], [5, 7, 12], [2, 1, 9, 12], [8, 16])
"""The passes that take a text in: steps of decoding, drafts, prompts."""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Rows of logits compared, and those that differed in any bit."""

    num_compared: int
    num_unequal: int


def check_rows(decoder: Decoder) -> SelfTest:
    """Feeds the same tokens at once and alone, then in chunks beside other rows of several widths.
    Overwrites the cache."""
    rng = np.random.default_rng(0)
    num_rows = min(decoder.max_slots, 4)
    texts = rng.integers(0, decoder.manifest.vocab_size, (num_rows, NUM_TOKENS)).tolist()
    reference = [decoder.forward([Row(0, 0, text, NUM_TOKENS)])[0] for text in texts]
    num_compared = num_unequal = 0
    for chunks in CHUNKS:
        for logits, expected in zip(_in_chunks(decoder, texts, chunks), reference, strict=True):
            num_compared += NUM_TOKENS
            num_unequal += int((logits != expected).any(axis=1).sum())
    return SelfTest(num_compared, num_unequal)


def _in_chunks(decoder: Decoder, texts: list[list[int]], sizes: list[int]) -> list[FloatArray]:
    """All logits of texts that go through the passes together, row r delayed by r passes: rows of
    different widths meet, and the first and the last pass hold one row alone."""
    pieces: list[list[FloatArray]] = [[] for _ in texts]
    starts = [0] * len(texts)
    steps = [-row for row in range(len(texts))]
    while min(steps) < len(sizes):
        rows = []
        for slot, (text, start, step) in enumerate(zip(texts, starts, steps, strict=True)):
            if 0 <= step < len(sizes):
                chunk = text[start : start + sizes[step]]
                rows.append(Row(slot, start, chunk, len(chunk)))
        for row, logits in zip(rows, decoder.forward(rows), strict=True):
            pieces[row.slot].append(logits)
            starts[row.slot] += len(row.tokens)
        steps = [step + 1 for step in steps]
    return [np.concatenate(p) for p in pieces]
