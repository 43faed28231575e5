"""A plain Llama as machine code, made for it when a draft model is loaded (LLVM).

Several tokens are drawn in one call, which holds no interpreter lock. Logits are nearly the graph's
(shared/lm/compact.py).
"""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
from llvmlite import binding

from services.drafter.llama_code import LlamaCode
from services.drafter.packing import fits, pack
from services.drafter.passes import Drawn, drawn
from services.drafter.pick_code import NUM_DRAW_WORDS
from shared.errors import ModelError
from shared.generation import Sampling
from shared.jit import compiled
from shared.lm.compact import Compact
from shared.lm.decoder import FloatArray, Row, check_rows_fit
from shared.lm.manifest import Manifest
from shared.lm.sampling import Place, mixed_seed

STEEPEST = 1e6
"""Largest inverse temperature: noise decides nothing long before, and float32 ends behind it."""
FEWEST_TOKENS = 64
"""That a pass has room for from the start."""


@dataclass(frozen=True, slots=True)
class Instructions:
    """Numbers of a vector, and whether bytes are multiplied by fours."""

    lanes: int
    has_dots: bool
    needed: tuple[str, ...] = ()
    """Features of an x86 CPU."""


_BASE = ("avx2", "f16c", "fma")
X86 = (
    Instructions(16, True, (*_BASE, "avx512f", "avx512bw", "avx512vnni")),
    Instructions(8, True, (*_BASE, "avxvnni")),
    Instructions(16, False, (*_BASE, "avx512f")),
    Instructions(8, False, _BASE),
)
"""The fastest first."""


def usable() -> list[Instructions]:
    """Those of this CPU, the fastest first; none where numbers of 16 bits are not widened."""
    if platform.machine() == "x86_64":
        has = binding.get_host_cpu_features()
        return [own for own in X86 if all(has.get(feature) for feature in own.needed)]
    return [Instructions(8, False)] if platform.machine() in ("aarch64", "arm64") else []


class CompiledLlama:
    """Passes of one model."""

    def __init__(
        self, compact: Compact, manifest: Manifest, max_slots: int, instructions: Instructions
    ) -> None:
        """For a model that `fits`, by instructions that are usable."""
        assert fits(compact, manifest)
        self.manifest = manifest
        self.max_slots = max_slots
        lanes, has_dots = instructions.lanes, instructions.has_dots
        self._shape, self._weights = pack(compact, manifest, lanes, has_dots=has_dots)
        triple = binding.get_default_triple()
        code = LlamaCode(self._shape, lanes, triple, has_dots=has_dots)
        self._engine = compiled(code.written())
        word, pointer = ctypes.c_int64, ctypes.c_void_p
        kinds = [*[pointer] * 3, word, *[pointer] * 3, word, pointer, word, pointer]
        address = self._engine.get_function_address
        self._forward = ctypes.CFUNCTYPE(None, *kinds)(address("forward"))
        self._draft = ctypes.CFUNCTYPE(None, *kinds, word, *[pointer] * 3)(address("draft"))
        # Pages come into being as slots are used.
        self._cache = np.zeros((max_slots, self._shape.cache_numbers()), np.float16)
        self._max_tokens = self._max_logits = self._max_drawn = 0
        self._fit(FEWEST_TOKENS, 1, FEWEST_TOKENS)

    def forward(self, rows: Sequence[Row]) -> list[FloatArray]:
        """Logits [num_logits, V] of each row. Raises ModelError."""
        ends = [*accumulate(len(row.tokens) for row in rows)]
        wanted = [
            number
            for row, end in zip(rows, ends, strict=True)
            for number in range(end - row.num_logits, end)
        ]
        self._forward(*self._prepared(rows, wanted, 0))
        logits = self._logits[: len(wanted), : self.manifest.vocab_size].copy()
        ends = [*accumulate(row.num_logits for row in rows)]
        return [logits[end - row.num_logits : end] for row, end in zip(rows, ends, strict=True)]

    def read(self, rows: Sequence[Row]) -> None:
        self._forward(*self._prepared(rows, [], 0))

    def draw(self, rows: Sequence[Row], places: Sequence[Place], count: int) -> list[Drawn]:
        if not all(_is_simple(place.sampling) for place in places):
            return drawn(np.concatenate(self.forward(rows)), places)
        longest = max(row.start + len(row.tokens) for row in rows) + count - 1
        if longest > self.manifest.max_context:
            raise ModelError(f"{longest} tokens exceed the context of {self.manifest.max_context}")
        wanted = [end - 1 for end in accumulate(len(row.tokens) for row in rows)]
        draws = [word for place in places for word in _draw(place.sampling)]
        arguments = self._prepared(rows, wanted, len(rows) * count, draws)
        drafted, margins = self._drafted.ctypes.data, self._margins.ctypes.data
        at_draws = self._words.ctypes.data + 8 * (3 * arguments[7] + len(rows))
        self._draft(*arguments, count, at_draws, drafted, margins)
        tokens = self._drafted[: len(rows) * count].tolist()
        chances = self._margins[: len(rows) * count].tolist()
        parts = (slice(start, start + count) for start in range(0, len(tokens), count))
        return [Drawn(tokens[part], chances[part]) for part in parts]

    def _prepared(
        self, rows: Sequence[Row], wanted: list[int], num_drawn: int, draws: Sequence[int] = ()
    ) -> tuple[int, ...]:
        """The arguments of a pass, all words of which lie one behind the other: each conversion
        takes as long as a tenth of the pass."""
        check_rows_fit(rows, self.manifest, self.max_slots)
        words: list[int] = []
        for row in rows:
            words += row.tokens
        count = len(words)
        self._fit(count, len(wanted), num_drawn)
        for row in rows:
            words += [row.slot] * len(row.tokens)
        for row in rows:
            words += range(row.start, row.start + len(row.tokens))
        words += wanted
        words += draws
        self._words[: len(words)] = words
        start = self._words.ctypes.data
        parts = (start + 8 * count * part for part in range(4))
        tokens, slots, places, own = parts
        return (
            *(self._weights.ctypes.data, self._cache.ctypes.data, self._work.ctypes.data),
            *(self._max_tokens, tokens, slots, places, count, own, len(wanted)),
            self._logits.ctypes.data,
        )

    def _fit(self, num_tokens: int, num_logits: int, num_drawn: int) -> None:
        """Makes room for a pass of so many tokens and rows of logits, and what is drawn."""
        shape = self._shape
        if num_tokens > self._max_tokens:
            self._max_tokens = 2 * num_tokens
            size = self._max_tokens * shape.work_floats() + shape.num_heads * shape.max_context
            self._work = np.zeros(size, np.float32)
            self._words = np.zeros(self._max_tokens * (4 + NUM_DRAW_WORDS), np.int64)
        if num_logits > self._max_logits:
            self._max_logits = 2 * num_logits
            self._logits = np.zeros((self._max_logits, shape.columns), np.float32)
        if num_drawn > self._max_drawn:
            self._max_drawn = 2 * num_drawn
            self._drafted = np.zeros(self._max_drawn, np.int64)
            self._margins = np.zeros(self._max_drawn, np.float32)


def _is_simple(sampling: Sampling) -> bool:
    """Whether machine code draws so."""
    return not (sampling.is_filtered or sampling.is_penalized or sampling.logit_bias)


def _draw(sampling: Sampling) -> tuple[int, int]:
    """See pick_code.py."""
    if sampling.temperature == 0.0:
        return 0, 0
    return _words_of(sampling.temperature, sampling.seed)


@lru_cache(maxsize=1024)
def _words_of(temperature: float, seed: int) -> tuple[int, int]:
    inverse = struct.pack("f", min(1 / temperature, STEEPEST))
    mixed = struct.pack("Q", mixed_seed(seed))
    return struct.unpack("i", inverse)[0], struct.unpack("q", mixed)[0]
