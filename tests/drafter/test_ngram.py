"""Prompt lookup: the incremental index finds what a search of the whole text finds."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.drafter.ngram import MAX_N, MIN_N, NgramModel

texts = st.lists(st.integers(0, 3), min_size=1, max_size=40)


def search(text: list[int], length: int) -> list[int]:
    """The rule, by brute force: longest n-gram first, its most recent occurrence, copied on."""
    for n in range(MAX_N, MIN_N - 1, -1):
        for end in range(len(text) - 1, n - 1, -1):
            if len(text) >= n and text[end - n : end] == text[-n:]:
                whole = list(text)
                for place in range(end, end + length):
                    whole.append(whole[place])
                return whole[len(text) :]
    return []


def feed(model: NgramModel, name: str, text: list[int], cuts: list[int]) -> None:
    bounds = sorted({0, len(text), *(cut % len(text) for cut in cuts)})
    for start, end in pairwise(bounds):
        assert model.extend(name, start, text[start:end], len(text))


@given(texts, st.lists(st.integers(0, 100), max_size=5), st.integers(0, 9))
def test_the_index_finds_what_a_search_finds(text, cuts, length) -> None:
    model = NgramModel(max_requests=2)
    feed(model, "r", text, cuts)
    assert model.propose("r", length).tokens == search(text, length)


def test_a_loop_is_continued_beyond_its_end() -> None:
    model = NgramModel(max_requests=1)
    model.extend("r", 0, [9, 1, 2, 3, 1, 2, 3, 1], 1)
    assert model.propose("r", 8).tokens == [2, 3, 1, 2, 3, 1, 2, 3]


def test_repeated_messages_change_nothing_and_a_gap_or_another_text_is_refused() -> None:
    model = NgramModel(max_requests=1)
    assert not model.extend("r", 3, [1], 1)
    assert model.extend("r", 0, [1, 2, 3, 1, 2], 1)
    assert model.extend("r", 2, [3, 1, 2], 1)
    assert model.extend("r", 2, [3, 1], 1)
    assert model.propose("r", 2).tokens == [3, 1]
    assert not model.extend("r", 6, [1], 1)
    assert not model.extend("r", 2, [9, 9], 1)
    assert model.extend("r", 0, [4, 4], 1)
    assert model.propose("r", 2).tokens == []


def test_the_least_recently_used_request_is_forgotten() -> None:
    model = NgramModel(max_requests=2)
    for name in ("a", "b"):
        model.extend(name, 0, [1, 2, 1, 2], 1)
    model.extend("a", 4, [1], 1)
    model.extend("c", 0, [1], 1)
    assert not model.extend("b", 4, [1], 1)
    assert model.propose("b", 4).tokens == []
    assert model.extend("a", 5, [2], 1)


def test_a_released_request_is_unknown() -> None:
    model = NgramModel(max_requests=2)
    model.extend("a", 0, [1, 2, 1, 2], 1)
    model.release("a")
    model.release("never known")
    assert model.propose("a", 4).tokens == []
    assert not model.extend("a", 4, [1], 1)
