"""Suffix lookup: it finds what a search of all recent outputs finds, in memory that is bounded."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from services.drafter.suffix import MAX_MATCH, MIN_MATCH, MIN_SHARE, SuffixModel

# Few enough tokens in all that the number of candidates never decides.
outputs = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=4)


def search(texts: list[list[int]], tail: list[int], length: int) -> list[int]:
    """The rule, by brute force over places (text, index)."""

    def match(text: list[int], place: int) -> int:
        length = 0
        while length < min(place + 1, len(tail), MAX_MATCH):
            if text[place - length] != tail[-1 - length]:
                break
            length += 1
        return length

    places = [(match(text, place), text, place) for text in texts for place in range(len(text) - 1)]
    longest = max((m for m, _, _ in places), default=0)
    if longest < MIN_MATCH:
        return []
    survivors = [(text, place) for m, text, place in places if m == longest]
    proposal: list[int] = []
    while len(proposal) < length:
        followers = [(t, p + 1) for t, p in survivors if p + 1 < len(t)]
        counts = Counter(t[p] for t, p in followers)
        if not counts:
            break
        token = min(counts, key=lambda t: (-counts[t], t))
        if counts[token] < MIN_SHARE * len(survivors):
            break
        proposal.append(token)
        survivors = [(t, p) for t, p in followers if t[p] == token]
    return proposal


@given(outputs, st.integers(0, 6), st.randoms())
def test_it_finds_what_a_search_finds_however_requests_are_interleaved(
    texts, length, random
) -> None:
    model = SuffixModel(max_requests=8, max_tokens=100)
    sent = dict.fromkeys(range(len(texts)), 0)
    while any(sent[i] < len(text) for i, text in enumerate(texts)):
        i = random.choice([i for i, text in enumerate(texts) if sent[i] < len(text)])
        num_new = random.randint(1, len(texts[i]) - sent[i])
        assert model.extend(str(i), sent[i], texts[i][sent[i] : sent[i] + num_new], 1)
        sent[i] += num_new
    for i, text in enumerate(texts):
        assert model.propose(str(i), length).tokens == search(texts, text, length)


def test_an_output_is_found_again_from_the_end_of_the_same_prompt() -> None:
    model = SuffixModel(max_requests=4, max_tokens=1000)
    prompt, answer = list(range(100, 150)), [7, 8, 9, 10, 11]
    model.extend("first", 0, prompt, len(prompt))
    model.extend("first", len(prompt), answer, len(prompt))
    model.release("first")
    model.extend("second", 0, prompt, len(prompt))
    assert model.propose("second", 4).tokens == [7, 8, 9, 10]
    assert model.propose("second", 9).tokens == answer


def test_the_most_frequent_continuation_wins_as_long_as_most_follow_it() -> None:
    model = SuffixModel(max_requests=4, max_tokens=1000)
    for i, answer in enumerate([[5, 6, 1], [5, 6, 2], [5, 6, 3], [4, 4, 4]]):
        model.extend(str(i), 0, [1, 2, 3, *answer], 3)
        model.release(str(i))
    model.extend("r", 0, [1, 2, 3], 3)
    assert model.propose("r", 8).tokens == [5, 6]


def test_the_body_of_a_prompt_is_not_remembered() -> None:
    model = SuffixModel(max_requests=4, max_tokens=1000)
    model.extend("first", 0, [1, 2, 3, 4, 5, *range(50, 80)], 35)
    model.extend("second", 0, [1, 2, 3], 3)
    assert model.propose("second", 4).tokens == []


def test_what_the_ring_has_overwritten_is_forgotten() -> None:
    model = SuffixModel(max_requests=2, max_tokens=50)
    model.extend("old", 0, [1, 2, 3, 4, 5], 1)
    model.extend("r", 0, [1, 2, 3], 3)
    assert model.propose("r", 2).tokens == [4, 5]
    model.extend("filler", 0, list(range(100, 160)), 1)
    model.extend("s", 0, [1, 2, 3], 3)
    assert model.propose("s", 2).tokens == []
    assert model.extend("filler", 60, [100, 101], 1)
    assert model.propose("filler", 2).tokens == []


def test_memory_does_not_grow_once_the_ring_is_full() -> None:
    random = Random(1)
    model = SuffixModel(max_requests=4, max_tokens=2000)

    def fill(first: int) -> None:
        for request in range(first, first + 20):
            model.extend(str(request), 0, [random.randrange(5000) for _ in range(200)], 1)

    fill(0)
    tracemalloc.start()
    try:
        fill(20)
        before, _ = tracemalloc.get_traced_memory()
        for i in range(10):
            fill(40 + 20 * i)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 20_000


def test_repeated_messages_teach_nothing_twice_and_a_gap_is_refused() -> None:
    model = SuffixModel(max_requests=4, max_tokens=100)
    assert not model.extend("a", 2, [1], 1)
    for _ in range(3):
        assert model.extend("a", 0, [1, 2, 8], 1)
    assert model.extend("b", 0, [1, 2, 9], 1)
    assert model.extend("b", 1, [2, 9], 1)
    assert not model.extend("b", 4, [1], 1)
    model.extend("r", 0, [1, 2], 2)
    # One each; the tie goes to the lowest token. Counted three times, half would not be reached.
    assert model.propose("r", 1).tokens == [8]
    model.extend("c", 0, [1, 2, 9], 1)
    model.release("r")
    model.extend("r", 0, [1, 2], 2)
    assert model.propose("r", 1).tokens == [9]


def test_the_least_recently_used_and_the_released_are_unknown_their_outputs_stay() -> None:
    model = SuffixModel(max_requests=2, max_tokens=100)
    model.extend("a", 0, [1, 2, 3, 4], 1)
    model.extend("b", 0, [5, 6, 7, 8], 1)
    model.extend("c", 0, [1, 2], 1)
    assert not model.extend("a", 4, [1], 1)
    assert model.propose("c", 2).tokens == [3, 4]
    model.release("b")
    model.release("never known")
    assert not model.extend("b", 4, [1], 1)
    assert model.propose("b", 1).tokens == []
