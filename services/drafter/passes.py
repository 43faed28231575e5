"""Passes of a draft model: tokens in, and the tokens that it draws next."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from shared.generation import Sampling
from shared.lm import compact
from shared.lm.decoder import Decoder, Device, Row, load_decoder
from shared.lm.manifest import Manifest
from shared.lm.sampling import FloatArray, Place, draw_with_margins

if TYPE_CHECKING:
    from services.drafter.compiled import CompiledLlama

logger = logging.getLogger(__name__)
_FARTHEST = 0.1
"""Root of the mean square by which logits may be off the graph's, over their spread."""
_PROBED, _TIMED = 32, 9
"""Tokens that are compared, and passes that are timed."""


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


def load_passes(
    folder: Path, *, max_slots: int, num_threads: int, device: Device, compiles: bool
) -> Passes:
    """Of an exported model: by machine code where its weights are there in bytes and it does what
    the graph does, in less time; else by the graph. Raises ModelError."""
    decoder = load_decoder(folder, max_slots=max_slots, num_threads=num_threads, device=device)
    graph = GraphPasses(decoder)
    if not compiles or device != "cpu" or compact.FILE_NAME not in decoder.manifest.files:
        return graph
    # What a drafter of graphs alone need not have.
    from services.drafter.compiled import CompiledLlama, usable
    from services.drafter.packing import fits

    weights = compact.load_compact(folder)
    if not fits(weights, decoder.manifest) or not usable():
        return graph
    own = CompiledLlama(weights, decoder.manifest, max_slots, usable()[0])
    distance = _distance(decoder, own)
    if distance > _FARTHEST:
        logger.warning(
            "%s: machine code is %.0f %% off its graph, which runs instead",
            folder.name,
            100 * distance,
        )
        return graph
    ours_s, theirs_s = _seconds(own), _seconds(graph)
    name = "machine code" if ours_s < theirs_s else "its graph"
    logger.info(
        "%s: %.0f us a token by machine code, %.0f by its graph; %s runs",
        folder.name,
        1e6 * ours_s,
        1e6 * theirs_s,
        name,
    )
    return own if ours_s < theirs_s else graph


def _distance(decoder: Decoder, own: CompiledLlama) -> float:
    """Between the logits of both."""
    vocab_size = decoder.manifest.vocab_size
    tokens = np.random.default_rng(0).integers(0, vocab_size, _PROBED).tolist()
    row = Row(0, 0, tokens, len(tokens))
    right, found = decoder.forward([row])[0], own.forward([row])[0]
    return float(np.sqrt(np.mean((right - found) ** 2)) / right.std())


def _seconds(passes: Passes) -> float:
    """Of one token."""
    times = []
    for start in range(_TIMED):
        began = time.perf_counter()
        passes.draw(
            [Row(0, start, [0], 1)], [Place(Sampling(temperature=0.0), (), start + 1, 1)], 1
        )
        times.append(time.perf_counter() - began)
    return statistics.median(times)
