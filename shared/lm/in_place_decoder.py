"""The decoder of our own graph (ARCHITECTURE.md, "The decoder graph"): ragged batches, KV cache
updated in place.

The tokens of all rows go through the graph in one flat line. Attention alone sees rows, padded to
the longest, over the contiguous slots from the lowest to the highest in use. A slot between them
without a row of its own gets dummies behind its live tokens; padding on the right of a short row
is the same: the next real tokens of the slot overwrite them. Hence the buffers may be longer than
the context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
import numpy.typing as npt
import onnxruntime

from shared.lm.caches import Caches
from shared.lm.decoder import FloatArray, Row, check_rows_fit
from shared.lm.manifest import Manifest

STEP = 32
"""Attention costs as much as the buffers are long, so their length is the next multiple of this."""
SPARE = 16
"""Beyond it they get this part of what is needed: a copy of all costs as much as some passes."""
PATIENCE = 64
"""Passes that could have done with three quarters of the length, before it is shortened."""
MASKED = np.float32(-1e9)
FEWEST = 2
"""Tokens in a pass, queries of a key-value head, logits: for one alone other kernels are taken,
whose bits differ, and a token's logits must not depend on its company."""

IntArray = npt.NDArray[np.int64]


class InPlaceDecoder:
    """See shared.lm.decoder.Decoder."""

    def __init__(
        self,
        manifest: Manifest,
        session: onnxruntime.InferenceSession,
        max_slots: int,
        caches: Caches,
        pass_tokens: int = 0,
    ) -> None:
        """With `pass_tokens` every run of the graph holds exactly so many tokens, padded or in
        several runs: for devices whose kernels, and with them the bits, depend on the number."""
        self.manifest = manifest
        self.max_slots = max_slots
        self._session = session
        self._caches = caches
        # Query heads that share a key-value head are as many queries of it.
        self._fewest_places = -(-FEWEST * manifest.num_kv_heads // manifest.num_heads)
        self._pass_tokens = pass_tokens
        self._fewest_tokens = pass_tokens or FEWEST
        self._live = np.zeros(max_slots, np.int64)
        """Where dummies may be written: behind all that a slot's request has ever cached."""
        self._bindings: dict[tuple[int, int], onnxruntime.IOBinding] = {}
        self._num_passes = self._most_needed = 0
        """Since the buffers were last looked at, and the length that those needed."""
        self._resize(1)

    @property
    def cache_length(self) -> int:
        """Tokens that each slot has room for at present."""
        return self._caches.length

    def forward(self, rows: Sequence[Row]) -> list[FloatArray]:
        check_rows_fit(rows, self.manifest, self.max_slots)
        if not self._pass_tokens:
            return self._forward(rows)
        logits: list[list[FloatArray]] = [[] for _ in rows]
        for pieces in in_passes(rows, self._pass_tokens):
            parts = self._forward([piece for _, piece in pieces])
            for (row, _), part in zip(pieces, parts, strict=True):
                logits[row].append(part)
        return [parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in logits]

    def _forward(self, rows: Sequence[Row]) -> list[FloatArray]:
        slots = [row.slot for row in rows]
        low, high = min(slots), max(slots)
        shape = tuple((row.slot - low, len(row.tokens), row.num_logits) for row in rows)
        places = _place(shape, high - low + 1, self._fewest_places, self._fewest_tokens)
        starts = self._live[low : high + 1].copy()
        starts[[slot - low for slot in slots]] = [row.start for row in rows]
        self._fit(int(max(starts.max() + places.padded.shape[1], self._live.max())))
        ids = list(chain.from_iterable(row.tokens for row in rows))
        ids += [0] * (len(places.flat) - len(ids))
        logits = self._run(low, high, np.array([ids]), places, starts)
        self._live[slots] = [row.start + len(row.tokens) for row in rows]
        ends = np.cumsum([row.num_logits for row in rows])
        return [logits[end - row.num_logits : end] for row, end in zip(rows, ends, strict=True)]

    def move(self, source: int, target: int, length: int) -> None:
        self._caches.move(source, target, length)
        self._live[target] = length

    def read(self, slot: int, start: int, end: int) -> FloatArray:
        return self._caches.read(slot, start, end)

    def free(self, first: int) -> None:
        self._live[first:] = 0
        if first == 0 and self._caches.keeps_memory and self._caches.length > STEP:
            self._resize(1)

    def write(self, slot: int, start: int, block: FloatArray) -> None:
        end = start + block.shape[2]
        if end > self._caches.length:
            self._resize(end)
        self._caches.write(slot, start, block)
        self._live[slot] = end

    def _run(
        self, low: int, high: int, ids: IntArray, places: Places, starts: IntArray
    ) -> FloatArray:
        positions = starts[:, None] + np.arange(places.padded.shape[1])
        # Each token sees all of its slot up to itself.
        visible = np.arange(self._caches.length) <= positions[:, :, None]
        bias = np.where(visible, np.float32(0), MASKED)[:, None]
        binding = self._binding(low, high)
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("padded_indices", places.padded)
        binding.bind_cpu_input("flat_indices", places.flat)
        # Padding may reach beyond the last position that the rotary tables know.
        binding.bind_cpu_input("position_ids", np.minimum(positions, self.manifest.max_context - 1))
        binding.bind_cpu_input("write_indices", starts)
        binding.bind_cpu_input("attention_bias", bias)
        binding.bind_cpu_input("logit_indices", places.logits)
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

    def _fit(self, needed: int) -> None:
        """Makes the caches at least `needed` long, and shorter once they have been too long for a
        while."""
        if needed > self._caches.length:
            self._resize(needed)
            return
        self._num_passes += 1
        self._most_needed = max(self._most_needed, needed)
        if self._num_passes == PATIENCE:
            if 4 * _rounded(self._most_needed) <= 3 * self._caches.length:
                self._resize(self._most_needed)
            self._num_passes = self._most_needed = 0

    def _resize(self, needed: int) -> None:
        self._bindings.clear()
        used = np.flatnonzero(self._live)
        self._caches.resize(_rounded(needed), int(used[-1]) + 1 if len(used) else 0)
        self._num_passes = self._most_needed = 0


def _rounded(needed: int) -> int:
    return -(-(needed + needed // SPARE) // STEP) * STEP


@dataclass(frozen=True, slots=True)
class Places:
    """Where the N tokens of a pass, those of all rows one after the other and dummies behind them,
    are in its flat line, and in its B rows of T places."""

    padded: IntArray
    """[B, T]: the token, by its index in the line, at each place; 0 where there is none."""
    flat: IntArray
    """[N]: the place b * T + t of each token; of a dummy, the first."""
    logits: IntArray
    """The tokens whose logits are wanted, in the order of the rows."""


@lru_cache(maxsize=1024)
def _place(
    rows: tuple[tuple[int, int, int], ...], num_slots: int, fewest_places: int, fewest_tokens: int
) -> Places:
    """For rows (slot, number of tokens, of logits). Remembered, since most passes have the shape of
    one before."""
    lengths = np.array([length for _, length, _ in rows])
    ends = np.cumsum(lengths)
    wanted = [
        index
        for (_, _, num_logits), end in zip(rows, ends.tolist(), strict=True)
        for index in range(end - num_logits, end)
    ]
    width = max(fewest_places, int(lengths.max()))
    line = np.arange(ends[-1])
    row_starts = np.repeat([slot * width for slot, _, _ in rows], lengths)
    flat = row_starts + line - np.repeat(ends - lengths, lengths)
    padded = np.zeros((num_slots, width), np.int64)
    padded.ravel()[flat] = line
    logits = np.array(wanted, np.int64)
    return Places(padded, _padded(flat, fewest_tokens), _padded(logits, fewest_tokens))


def _padded(indices: IntArray, fewest: int) -> IntArray:
    """With zeros behind, which stand for dummies: what they give is not looked at."""
    return np.concatenate([indices, np.zeros(max(0, fewest - len(indices)), np.int64)])


def in_passes(rows: Sequence[Row], num_tokens: int) -> Iterator[list[tuple[int, Row]]]:
    """The rows, cut where need be, in passes of at most `num_tokens`: each piece with the place of
    its row among all. Pieces of a row are in its order, and none shares a pass with another."""
    pieces: list[tuple[int, Row]] = []
    room = num_tokens
    for place, row in enumerate(rows):
        done = 0
        while done < len(row.tokens):
            tokens = row.tokens[done : done + room]
            done += len(tokens)
            # Logits are those of a row's last tokens.
            num_logits = max(0, min(len(tokens), done + row.num_logits - len(row.tokens)))
            start = row.start + done - len(tokens)
            pieces.append((place, Row(row.slot, start, tokens, num_logits)))
            room -= len(tokens)
            if room == 0:
                yield pieces
                pieces, room = [], num_tokens
    if pieces:
        yield pieces
