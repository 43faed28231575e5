"""How many tokens of each draft to verify: as many as bring the most tokens per second of all.

Pure. A pass over drafts emits one token for each request, and each draft token with the
probability that the target follows the draft that far. What a pass costs depends on the number of
its tokens only, so the best choice of a given number is that of the most probable ones; the best
number is the one with the highest expected rate. Probabilities along a draft never rise, so what
is chosen is a beginning of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


def choose_lengths(
    survivals: Sequence[Sequence[float]],
    num_other_tokens: int,
    seconds: Callable[[int], float],
    outside_s: float = 0.0,
) -> list[int]:
    """The number of draft tokens to verify of each request.

    `survivals` has, for each request, the probability that each token of its draft is accepted,
    never rising. The pass holds `num_other_tokens` beside them (at least one of each request) and
    takes `seconds(tokens)`; `outside_s` passes between two passes, whatever is chosen.
    """
    lengths = [0] * len(survivals)
    if not any(survivals):
        return lengths
    candidates = sorted(
        ((-p, place, request) for request, s in enumerate(survivals) for place, p in enumerate(s)),
    )
    expected = float(len(survivals))
    best_rate, best_count = expected / (seconds(num_other_tokens) + outside_s), 0
    for count, (negative, _, _) in enumerate(candidates, 1):
        expected -= negative
        rate = expected / (seconds(num_other_tokens + count) + outside_s)
        if rate > best_rate:
            best_rate, best_count = rate, count
    for _, _, request in candidates[:best_count]:
        lengths[request] += 1
    return lengths


def token_price(
    expected: float, num_tokens: int, seconds: Callable[[int], float], outside_s: float = 0.0
) -> float:
    """The probability of acceptance from which on one more draft token pays, in a pass of
    `num_tokens` that is expected to emit `expected` tokens."""
    spent = seconds(num_tokens) + outside_s
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
