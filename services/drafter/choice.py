"""By what a draft model's passes run: machine code made for it, or its graph."""

from __future__ import annotations

import logging
import statistics
import time
from pathlib import Path

import numpy as np

from services.drafter.compiled import CompiledLlama, usable
from services.drafter.packing import fits
from services.drafter.passes import GraphPasses, Passes
from shared.generation import Sampling
from shared.lm import compact
from shared.lm.decoder import Decoder, Device, Row, load_decoder
from shared.lm.sampling import Place

logger = logging.getLogger(__name__)
_FARTHEST = 0.1
"""Root of the mean square by which logits may be off the graph's, over their spread."""
_PROBED, _TIMED = 32, 9
"""Tokens that are compared, and passes that are timed."""


def load_passes(
    folder: Path, *, max_slots: int, num_threads: int, device: Device, compiles: bool
) -> Passes:
    """Of an exported model: by machine code where its weights are there in bytes and it does what
    the graph does, in less time; else by the graph. Raises ModelError."""
    decoder = load_decoder(folder, max_slots=max_slots, num_threads=num_threads, device=device)
    graph = GraphPasses(decoder)
    if not compiles or device != "cpu" or compact.FILE_NAME not in decoder.manifest.files:
        return graph
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
