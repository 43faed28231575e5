"""The decoder of our own graph (ARCHITECTURE.md, "The decoder graph"): ragged batches, KV cache
updated in place.

A pass runs over the contiguous slots from the lowest to the highest in use. A slot between them
without a row of its own gets dummy tokens behind its live ones; padding on the right of a short
row is the same: the next real tokens of the slot overwrite them. Hence the buffers are longer
than the context by the longest pass, or by what a step of growth adds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime

from shared.lm.caches import Caches
from shared.lm.decoder import FloatArray, Row, check_rows_fit
from shared.lm.manifest import Manifest

FIRST_LENGTH = 256
"""Attention costs as much as the buffer is long, so it starts short and doubles."""
MASKED = np.float32(-1e9)

IntArray = npt.NDArray[np.int64]


class InPlaceDecoder:
    """See shared.lm.decoder.Decoder."""

    def __init__(
        self,
        manifest: Manifest,
        session: onnxruntime.InferenceSession,
        max_slots: int,
        caches: Caches,
    ) -> None:
        self.manifest = manifest
        self.max_slots = max_slots
        self._session = session
        self._caches = caches
        self._live = np.zeros(max_slots, np.int64)
        """Where dummies may be written: behind all that a slot's request has ever cached."""
        self._bindings: dict[tuple[int, int], onnxruntime.IOBinding] = {}
        self._grow(FIRST_LENGTH)

    def forward(self, rows: Sequence[Row]) -> list[FloatArray]:
        check_rows_fit(rows, self.manifest, self.max_slots)
        low = min(row.slot for row in rows)
        high = max(row.slot for row in rows)
        num_rows = high - low + 1
        # A pass of a single token would take other kernels, whose bits differ.
        width = max(max(len(row.tokens) for row in rows), 2 if num_rows == 1 else 1)
        starts = self._live[low : high + 1].copy()
        for row in rows:
            starts[row.slot - low] = row.start
        self._grow(int(starts.max()) + width)
        ids = np.zeros((num_rows, width), np.int64)
        for row in rows:
            ids[row.slot - low, : len(row.tokens)] = row.tokens
        logits = self._run(low, high, ids, starts, _logit_indices(rows, low, width))
        for row in rows:
            self._live[row.slot] = row.start + len(row.tokens)
        ends = np.cumsum([row.num_logits for row in rows])
        return [logits[end - row.num_logits : end] for row, end in zip(rows, ends, strict=True)]

    def move(self, source: int, target: int, length: int) -> None:
        self._caches.move(source, target, length)
        self._live[target] = length

    def _run(
        self, low: int, high: int, ids: IntArray, starts: IntArray, indices: IntArray
    ) -> FloatArray:
        positions = starts[:, None] + np.arange(ids.shape[1])
        # Each token sees all of its slot up to itself.
        visible = np.arange(self._caches.length) <= positions[:, :, None]
        bias = np.where(visible, np.float32(0), MASKED)[:, None]
        binding = self._binding(low, high)
        binding.bind_cpu_input("input_ids", ids)
        # Padding may reach beyond the last position that the rotary tables know.
        binding.bind_cpu_input("position_ids", np.minimum(positions, self.manifest.max_context - 1))
        binding.bind_cpu_input("write_indices", starts)
        binding.bind_cpu_input("attention_bias", bias)
        binding.bind_cpu_input("logit_indices", indices)
        binding.bind_output("logits")
        self._session.run_with_iobinding(binding)
        logits: FloatArray = binding.get_outputs()[-1].numpy()
        return logits

    def _binding(self, low: int, high: int) -> onnxruntime.IOBinding:
        if (low, high) not in self._bindings:
            binding = self._session.io_binding()
            self._caches.bind(binding, low, high)
            self._bindings[low, high] = binding
        return self._bindings[low, high]

    def _grow(self, length: int) -> None:
        """Makes the caches at least `length` long, in doubling steps."""
        if length > self._caches.length:
            self._caches.grow(max(FIRST_LENGTH, 1 << (length - 1).bit_length()))
            self._bindings.clear()


def _logit_indices(rows: Sequence[Row], low: int, width: int) -> IntArray:
    """Flat positions of the wanted logits in the padded pass, in the order of the rows; at least
    two, for the same reason as the pass has two tokens."""
    wanted = [
        (row.slot - low) * width + position
        for row in rows
        for position in range(len(row.tokens) - row.num_logits, len(row.tokens))
    ]
    return np.array(wanted + wanted[:1] * (2 - len(wanted)) or [0, 0], np.int64)
