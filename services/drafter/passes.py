"""Passes of a draft model: tokens in, and the tokens that it draws next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from shared.lm.decoder import Decoder, Row
from shared.lm.manifest import Manifest
from shared.lm.sampling import FloatArray, Place, draw_with_margins


@dataclass(frozen=True, slots=True)
class Drawn:
    """Tokens one after the other, and by how much each won over the next best."""

    tokens: list[int]
    margins: list[float]


class Passes(Protocol):
    """Calls block and come one after the other. Each row has a slot of the cache, at most one."""

    manifest: Manifest
    max_slots: int

    def read(self, rows: Sequence[Row]) -> None:
        """Takes the rows' tokens into the cache."""

    def draw(self, rows: Sequence[Row], places: Sequence[Place], count: int) -> list[Drawn]:
        """Takes the rows' tokens into the cache, then draws `count` tokens for each, the first one
        for its place, or fewer, but at least one and as many for each. The last one is not in the
        cache."""


class GraphPasses:
    """By the model's graph, a token at a time."""

    def __init__(self, decoder: Decoder) -> None:
        self.manifest = decoder.manifest
        self.max_slots = decoder.max_slots
        self._decoder = decoder

    def read(self, rows: Sequence[Row]) -> None:
        self._decoder.forward(rows)

    def draw(self, rows: Sequence[Row], places: Sequence[Place], count: int) -> list[Drawn]:
        return drawn(np.concatenate(self._decoder.forward(rows)), places)


def drawn(logits: FloatArray, places: Sequence[Place]) -> list[Drawn]:
    """One token for each place."""
    tokens, margins = draw_with_margins(logits, places)
    return [Drawn([int(t)], [float(m)]) for t, m in zip(tokens, margins, strict=True)]
