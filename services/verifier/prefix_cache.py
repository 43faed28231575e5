"""Keys and values of texts that were computed before: a shared beginning, a system prompt or the
turns of a chat, is computed once.

The cache of a text is cut into blocks; the key of a block is a hash of all tokens up to its end
(as vLLM's automatic prefix caching has it). What is restored are the bits that computing again
would give, since those do not depend on company or chunking (shared/lm/self_test.py).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import takewhile

import numpy as np

from services.verifier.session import Session
from shared.lm.decoder import FloatArray

BLOCK_TOKENS = 32


class PrefixCache:
    """Blocks [layers' keys and values, KV heads, tokens, head size], the least recently used one
    forgotten first. Not to be used by two threads at a time."""

    def __init__(self, max_bytes: int, block_tokens: int = BLOCK_TOKENS) -> None:
        """Holds `max_bytes` at most; 0 stores nothing."""
        self.block_tokens = block_tokens
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._blocks: OrderedDict[bytes, FloatArray] = OrderedDict()

    def find(self, session: Session) -> tuple[int, list[FloatArray]]:
        """Where in the session's text the blocks found begin, and the blocks, one behind the other.
        They lead further than what is in its cache, and leave two tokens or more to compute."""
        first, found = self._found(session)
        # The last block first: a block is of no use without those before it.
        for key in reversed(found):
            self._blocks.move_to_end(key)
        return first * self.block_tokens, [self._blocks[key] for key in found]

    def num_known(self, session: Session) -> int:
        """How many tokens at the text's start need not be computed."""
        first, found = self._found(session)
        return max(session.num_cached, (first + len(found)) * self.block_tokens)

    def keys_between(self, session: Session, start: int, end: int) -> list[bytes]:
        """The keys of the whole blocks of the session's text that tokens `start` to `end` touch, as
        far as they can be kept."""
        if not self._max_bytes:
            return []
        keys = self._keys(session, session.tokens)
        return keys[start // self.block_tokens : -(-end // self.block_tokens)]

    def unknown(
        self, session: Session, start: int, tokens: Sequence[int]
    ) -> Iterator[tuple[bytes, int]]:
        """Key and first token of each whole block that is not known yet, once `tokens` have been
        computed behind the first `start` of the session's text."""
        if not self._max_bytes or (start + len(tokens)) // self.block_tokens == (
            start // self.block_tokens
        ):
            return
        keys = self._keys(session, [*session.tokens[:start], *tokens])
        for number in range(start // self.block_tokens, len(keys)):
            if keys[number] not in self._blocks:
                yield keys[number], number * self.block_tokens

    def store(self, key: bytes, block: FloatArray) -> None:
        """Keeps a block, and forgets others if there is no room."""
        if block.nbytes > self._max_bytes:
            self._max_bytes = 0  # no block will ever have room
        if key in self._blocks or not self._max_bytes:
            return
        self._blocks[key] = block
        self._num_bytes += block.nbytes
        while self._num_bytes > self._max_bytes:
            _, oldest = self._blocks.popitem(last=False)
            self._num_bytes -= oldest.nbytes

    def _found(self, session: Session) -> tuple[int, list[bytes]]:
        """The number of the first block that the session lacks, and the keys of those from there
        on that are kept, without a gap."""
        first = session.num_cached // self.block_tokens
        keys = self._keys(session, session.tokens[:-2])[first:]
        return first, list(takewhile(self._blocks.__contains__, keys))

    def _keys(self, session: Session, tokens: Sequence[int]) -> list[bytes]:
        """Of all whole blocks of `tokens`, which only ever go on from what the session had."""
        keys, size = session.block_keys, self.block_tokens
        while len(keys) < len(tokens) // size:
            start = len(keys) * size
            block = np.array(tokens[start : start + size], np.int64).tobytes()
            keys.append(hashlib.sha256((keys[-1] if keys else b"") + block).digest())
        return keys[: len(tokens) // size]
