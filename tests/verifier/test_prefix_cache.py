"""The prefix cache: what is found is what was stored for the same text, and memory is bounded."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.verifier.prefix_cache import PrefixCache
from services.verifier.session import Session
from shared.generation import Sampling
from shared.messages import GenerateRequest

BLOCK = 4
TEXTS = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=40), min_size=1, max_size=20)


def session(tokens: list[int]) -> Session:
    return Session(GenerateRequest("r", "x", tokens, 9, Sampling(), [], 0.0), 0)


def compute(cache: PrefixCache, tokens: list[int]) -> None:
    """As the engine does: a block holds, in place of keys and values, the text up to its end."""
    one = session(tokens)
    for key, start in cache.unknown(one, 0, tokens):
        text = np.zeros((1, 1, BLOCK, 64), np.float32)
        text.ravel()[: start + BLOCK] = tokens[: start + BLOCK]
        cache.store(key, text)


@given(TEXTS, st.integers(0, 12))
def test_what_is_found_belongs_to_the_text(texts: list[list[int]], num_blocks: int) -> None:
    cache = PrefixCache(num_blocks * BLOCK * 64 * 4, BLOCK)
    for number, tokens in enumerate(texts):
        one = session(tokens)
        one.num_cached = number % len(tokens)
        start, blocks = cache.find(one)
        assert start == one.num_cached // BLOCK * BLOCK
        end = start + len(blocks) * BLOCK
        assert end <= max(start, len(tokens) - 2)
        for block, last in zip(blocks, range(start + BLOCK, end + 1, BLOCK), strict=True):
            assert block.ravel()[:last].tolist() == tokens[:last]
        compute(cache, tokens)
    assert cache._num_bytes == sum(b.nbytes for b in cache._blocks.values()) <= cache._max_bytes


@given(st.lists(st.integers(0, 9), min_size=BLOCK + 2, max_size=40))
def test_what_has_room_is_found_whole(tokens: list[int]) -> None:
    cache = PrefixCache(1 << 20, BLOCK)
    compute(cache, tokens)
    assert len(cache.find(session(tokens))[1]) == (len(tokens) - 2) // BLOCK
    other = [*tokens[:-3], 10, *tokens[-2:]]
    assert len(cache.find(session(other))[1]) == min((len(tokens) - 3), len(tokens) - 2) // BLOCK


def test_the_least_recently_used_is_forgotten_first() -> None:
    cache = PrefixCache(4 * BLOCK * 64 * 4, BLOCK)
    first, second, third = ([n] * 2 * BLOCK + [9, 9] for n in range(3))
    compute(cache, first)
    compute(cache, second)
    assert len(cache.find(session(first))[1]) == 2
    compute(cache, third)
    assert [len(cache.find(session(text))[1]) for text in (first, second, third)] == [2, 0, 2]


def test_without_memory_nothing_is_waited_for() -> None:
    cache = PrefixCache(0, BLOCK)
    compute(cache, [1] * 20)
    assert cache.find(session([1] * 20)) == (0, [])
    assert cache.keys_between(session([1] * 20), 0, 19) == []
