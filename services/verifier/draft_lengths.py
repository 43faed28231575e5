"""How many tokens of each draft to verify: as many as bring the most tokens per second of all.

Pure. A pass over drafts emits one token for each request, and each draft token with the
probability that the target follows the draft that far. What a pass costs depends on the number of
its tokens and on its longest row, so of all choices with a given number and longest row that of
the most probable tokens is the best; the best of those is the one with the highest expected rate.
Probabilities along a draft never rise, so what is chosen is a beginning of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate


def choose_lengths(
    survivals: Sequence[Sequence[float]],
    others: Sequence[int],
    seconds: Callable[[int], float],
    between_s: float = 0.0,
    num_slots: int = 0,
    padding_s: float = 0.0,
) -> list[int]:
    """The number of draft tokens to verify of each request.

    `survivals` has, for each request, the probability that each token of its draft is accepted,
    never rising, and `others` how many tokens it has in the pass beside them (at least one). The
    pass takes `seconds(tokens)`, and `padding_s` for each place without a token, if `num_slots`
    rows are padded to the longest one; `between_s` passes between two passes, whatever is chosen.
    """
    lengths = [0] * len(survivals)
    if not any(survivals):
        return lengths
    if num_slots == 1:
        padding_s = 0.0  # a row alone is as long as it is
    candidates = sorted(
        (-p, place, request) for request, s in enumerate(survivals) for place, p in enumerate(s)
    )
    num_others = sum(others)
    spent = [between_s + seconds(num_others + count) for count in range(len(candidates) + 1)]
    # Where padding costs nothing, the longest row may be as long as it likes.
    ends = {others[request] + place + 1 for _, place, request in candidates}
    longest_rows = {max(others)} | {end for end in ends if end > max(others)}
    best_rate, best, best_count = 0.0, candidates, 0
    for longest in sorted(longest_rows) if padding_s else [max(longest_rows)]:
        fitting = [chosen for chosen in candidates if others[chosen[2]] + chosen[1] < longest]
        num_places = num_slots * longest - num_others
        expected = accumulate((-negative for negative, _, _ in fitting), initial=len(survivals))
        for count, tokens in enumerate(expected):
            rate = tokens / (spent[count] + (num_places - count) * padding_s)
            if rate > best_rate:
                best_rate, best, best_count = rate, fitting, count
    for _, _, request in best[:best_count]:
        lengths[request] += 1
    return lengths


def token_price(
    expected: float, num_tokens: int, seconds: Callable[[int], float], between_s: float = 0.0
) -> float:
    """The probability of acceptance from which on one more draft token pays, in a pass of
    `num_tokens` that is expected to emit `expected` tokens."""
    spent = seconds(num_tokens) + between_s
    return (seconds(num_tokens + 1) - seconds(num_tokens)) * expected / spent


def highest_gain(
    num_requests: int, acceptance: float, longest: int, seconds: Callable[[int], float]
) -> float:
    """How many times the tokens per second of plain decoding drafts bring if each of their tokens
    is accepted with the chance `acceptance`, they are at most `longest`, and cost nothing."""
    plain = seconds(num_requests)
    return max(
        sum(acceptance**place for place in range(length + 1))
        * (plain / seconds(num_requests * (length + 1)))
        for length in range(longest + 1)
    )
