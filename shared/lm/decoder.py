"""Forward passes of a decoder over a ragged batch of requests, each with a slot of the KV cache.

A rewind is a smaller `start`, nothing else. Calls block and come from one thread. The logits of a
row are the same bits whatever shares its pass (shared/lm/self_test.py). Knows no bus, no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from shared.errors import ModelError
from shared.lm.manifest import Manifest, load_manifest

FloatArray = npt.NDArray[np.float32]
GRAPH_FILE = "model.onnx"
Device = Literal["cpu", "cuda"]
PASS_TOKENS: dict[Device, int] = {"cpu": 0, "cuda": 128}
"""In each run of the graph where exact reproducibility is wanted; 0: as they come. On a GPU, fewer
would cut large passes into several, more make small ones dearer (benchmarks/results/gpu.md)."""
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@dataclass(frozen=True, slots=True)
class Row:
    """One request's share of a forward pass."""

    slot: int
    start: int
    """Tokens in the slot's cache that stay; the new ones come behind them."""
    tokens: Sequence[int]
    num_logits: int
    """Logits wanted, of the last so many tokens; 0 in a prefill."""


class Decoder(Protocol):
    """A loaded model with `max_slots` places for requests."""

    manifest: Manifest
    max_slots: int

    def forward(self, rows: Sequence[Row]) -> list[FloatArray]:
        """Logits [num_logits, V] of each row. At most one row a slot. Raises ModelError."""

    def move(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` cached tokens of a slot into another slot."""

    def free(self, first: int) -> None:
        """Nothing in the slots from `first` on is wanted any more."""

    def read(self, slot: int, start: int, end: int) -> FloatArray:
        """Keys and values of tokens `start` to `end` of a slot: [layers x 2, KV heads, tokens,
        head size], in host memory."""

    def write(self, slot: int, start: int, block: FloatArray) -> None:
        """Puts what `read` gave into a slot, behind its first `start` tokens."""


def load_decoder(
    folder: Path,
    *,
    max_slots: int,
    num_threads: int,
    device: Device = "cpu",
    pass_tokens: int = 0,
) -> Decoder:
    """Verifies and loads an exported model. On a GPU, logits keep their bits in any company with
    `pass_tokens` alone (in_place_decoder.py). Raises ModelError."""
    from shared.lm.caches import make_caches
    from shared.lm.concat_decoder import ConcatDecoder
    from shared.lm.in_place_decoder import InPlaceDecoder

    manifest = load_manifest(folder)
    session = open_session(folder / GRAPH_FILE, num_threads, device)
    if manifest.graph == "in-place":
        caches = make_caches(manifest, max_slots, device)
        return InPlaceDecoder(manifest, session, max_slots, caches, pass_tokens)
    return ConcatDecoder(manifest, session, max_slots)


def open_session(
    path: Path, num_threads: int, device: Device = "cpu"
) -> onnxruntime.InferenceSession:
    """An onnxruntime session. One thread means no pool: two spinning pools ruin each other."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    providers = _cuda_providers() if device == "cuda" else [CPU]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's own errors have no common base
        raise ModelError(f"{path} cannot be loaded: {error}") from error
    if device == "cuda" and CUDA not in session.get_providers():
        raise ModelError("device `cuda`: onnxruntime could not use a GPU and fell back to the CPU")
    return session


def _cuda_providers() -> list[str | tuple[str, dict[str, str]]]:
    """What runs where on a GPU. Raises ModelError where onnxruntime was built without."""
    available = onnxruntime.get_available_providers()
    if CUDA not in available:
        raise ModelError(
            "device `cuda` needs the package onnxruntime-gpu in the place of onnxruntime, as "
            f"deploy/gpu.yml installs it; this one knows {', '.join(available)} alone"
        )
    onnxruntime.preload_dlls()
    # Shorter multiplications would be faster, but not the model's fp32.
    return [(CUDA, {"use_tf32": "0"}), CPU]


def check_rows_fit(rows: Sequence[Row], manifest: Manifest, max_slots: int) -> None:
    """Raises ModelError for a pass that this decoder cannot do."""
    if len({row.slot for row in rows}) != len(rows):
        raise ModelError("two rows of a pass share a cache slot")
    for row in rows:
        if not 0 <= row.slot < max_slots:
            raise ModelError(f"slot {row.slot} is not within 0 and {max_slots - 1}")
        if not 0 <= row.num_logits <= len(row.tokens) or not row.tokens:
            raise ModelError(f"{row.num_logits} logits of {len(row.tokens)} tokens wanted")
        if row.start + len(row.tokens) > manifest.max_context:
            raise ModelError(
                f"{row.start} cached and {len(row.tokens)} new tokens exceed the context of "
                f"{manifest.max_context}"
            )
        if min(row.tokens) < 0 or max(row.tokens) >= manifest.vocab_size:
            raise ModelError(f"a token id is not within 0 and {manifest.vocab_size - 1}")
