"""The decoder of a plain decoder-with-past export: `past_key_values.*` in, grown `present.*` out.

The slower path: one request a pass, its cache copied by the graph each time. Such graphs promise
nothing about bits, so the self-test may report unequal rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime

from shared.lm.decoder import FloatArray, Row, check_rows_fit
from shared.lm.manifest import Manifest


class ConcatDecoder:
    """See shared.lm.decoder.Decoder."""

    def __init__(
        self, manifest: Manifest, session: onnxruntime.InferenceSession, max_slots: int
    ) -> None:
        self.manifest = manifest
        self.max_slots = max_slots
        self._session = session
        self._inputs = {i.name for i in session.get_inputs()}
        self._past = sorted(name for name in self._inputs if name.startswith("past_key_values"))
        self._outputs = ["logits", *(n.replace("past_key_values", "present") for n in self._past)]
        shape = (1, manifest.num_kv_heads, 0, manifest.head_size)
        self._empty = dict.fromkeys(self._past, np.zeros(shape, np.float32))
        self._caches = [self._empty] * max_slots

    def forward(self, rows: Sequence[Row]) -> list[FloatArray]:
        check_rows_fit(rows, self.manifest, self.max_slots)
        return [self._forward_one(row) for row in rows]

    def move(self, source: int, target: int, length: int) -> None:
        self._caches[target] = {
            name: value[:, :, :length] for name, value in self._caches[source].items()
        }

    def free(self, first: int) -> None:
        self._caches[first:] = [self._empty] * (self.max_slots - first)

    def read(self, slot: int, start: int, end: int) -> FloatArray:
        return np.stack([self._caches[slot][name][0, :, start:end] for name in self._past])

    def write(self, slot: int, start: int, block: FloatArray) -> None:
        for name, part in zip(self._past, block, strict=True):
            before = self._caches[slot][name][:, :, :start]
            self._caches[slot][name] = np.concatenate([before, part[None]], axis=2)

    def _forward_one(self, row: Row) -> FloatArray:
        tokens = [*row.tokens, 0] if len(row.tokens) == 1 else list(row.tokens)
        end = row.start + len(tokens)
        feed: dict[str, npt.NDArray[np.generic]] = {
            name: value[:, :, : row.start] for name, value in self._caches[row.slot].items()
        }
        feed["input_ids"] = np.array([tokens], np.int64)
        if "attention_mask" in self._inputs:
            feed["attention_mask"] = np.ones((1, end), np.int64)
        if "position_ids" in self._inputs:
            feed["position_ids"] = np.arange(row.start, end, dtype=np.int64)[None]
        logits, *present = self._session.run(self._outputs, feed)
        self._caches[row.slot] = dict(zip(self._past, present, strict=True))
        last = len(row.tokens)
        wanted: FloatArray = logits[0, last - row.num_logits : last]
        return wanted
