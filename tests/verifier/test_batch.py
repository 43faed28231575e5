"""What goes into a pass: prompts beside drafts or by turns with them, never too much of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.verifier.batch import (
    CLEARLY,
    FEW_TOKENS,
    Job,
    Limits,
    Share,
    Verified,
    compose,
    shape_of,
)
from services.verifier.pass_cost import PassCost, Shape
from services.verifier.prefix_cache import PrefixCache
from services.verifier.session import Session
from shared.generation import Sampling
from shared.messages import GenerateRequest

PROMPT = [5] * 300
NOTHING_KEPT = PrefixCache(0)
NEVER_DONE = cast("asyncio.Future[Verified]", SimpleNamespace())


def job(slot: int, draft: Sequence[int] | None, num_left: int = 1) -> Job:
    """Of a request that decodes, or of one whose prompt lacks so many tokens."""
    sampling = Sampling(temperature=0.0)
    session = Session(GenerateRequest(str(slot), "x", PROMPT, 50, sampling, [], 0.0), 0)
    session.num_cached = len(PROMPT) - num_left
    session.slot = slot
    return Job(session, draft, (), NEVER_DONE, 0.0)


def pass_over(decoding: Sequence[int], prompts: Sequence[tuple[int, int]]) -> list[Job]:
    """Requests that decode, each with a draft of two tokens, and prompts by slot and length."""
    return [job(s, [7, 8]) for s in decoding] + [job(s, None, n) for s, n in prompts]


def split(shares: Sequence[Share]) -> tuple[list[Share], list[Share]]:
    """Drafts and prompts."""
    drafts = [share for share in shares if share.job.draft is not None]
    return drafts, [share for share in shares if share.job.draft is None]


def num_tokens(shares: Sequence[Share]) -> int:
    return sum(len(share.tokens) for share in shares)


FREE = PassCost({2: 0.020, 8: 0.022, 32: 0.050, 256: 0.400}, padding_s=0.0)
DEAR = PassCost({2: 0.020, 8: 0.022, 32: 0.050, 256: 0.400}, padding_s=0.0005)
LIMITS = Limits(256, 0.05)


def test_more_of_a_draft_goes_along_where_much_passes_between_two_passes() -> None:
    cost = PassCost({2: 0.010, 10: 0.050})
    drafted = replace(job(0, [7, 8]), survival=(0.6, 0.4))
    for between_s, length in ((0.0, 1), (0.020, 2)):
        (share,) = compose([drafted], cost, LIMITS, NOTHING_KEPT, between_s=between_s)
        assert len(share.draft) == length


def test_prompts_go_beside_drafts_where_padding_costs_nothing() -> None:
    drafts, prompts = split(
        compose(pass_over(range(8), [(8, 200)]), FREE, LIMITS, NOTHING_KEPT, is_prompts_turn=True)
    )
    assert (len(drafts), len(prompts)) == (8, 1)


def test_prompts_and_drafts_take_turns_where_padding_is_dear() -> None:
    waiting = pass_over(range(8), [(8, 200)])
    drafts, prompts = split(compose(waiting, DEAR, LIMITS, NOTHING_KEPT))
    assert (len(drafts), prompts) == (8, [])
    drafts, (prompt,) = split(compose(waiting, DEAR, LIMITS, NOTHING_KEPT, is_prompts_turn=True))
    assert drafts == []
    assert len(prompt.tokens) == 32, "what fits in the time that they may take"
    # In the next slot there is little padding, and the weights are read once for both.
    drafts, prompts = split(compose(pass_over([7], [(8, 200)]), DEAR, LIMITS, NOTHING_KEPT))
    assert (len(drafts), len(prompts)) == (1, 1)


def test_prompts_alone_are_short_where_somebody_is_decoding() -> None:
    waiting = pass_over([], [(3, 250)])
    (alone,) = compose(waiting, DEAR, LIMITS, NOTHING_KEPT)
    assert len(alone.tokens) == 249
    (short,) = compose(waiting, DEAR, LIMITS, NOTHING_KEPT, is_decoding=True)
    assert len(short.tokens) == 32
    (few,) = compose(waiting, DEAR, Limits(256, 1e-3), NOTHING_KEPT, is_decoding=True)
    assert len(few.tokens) == FEW_TOKENS, "no pass is shorter by much"


def test_prompts_are_ended_one_after_the_other() -> None:
    """However much of one has room in a pass, and whoever submits the next part when."""
    waiting = pass_over([0], [(slot, 64) for slot in range(1, 9)])
    decoding, *prompts = waiting
    for number, prompt in enumerate(prompts):
        prompt.session.started = number / 1000
    ended: list[int] = []
    while prompts:
        _, shares = split(compose([decoding, *prompts], FREE, LIMITS, NOTHING_KEPT))
        for share in shares:
            share.job.session.num_cached += len(share.tokens)
        prompts = [job for job in prompts if job not in [share.job for share in shares]]
        prompts += [share.job for share in shares if not share.job.session.is_decoding]
        ended += [s.job.session.slot for s in shares if s.job.session.is_decoding]
        assert sum(job.session.num_uncached < 64 for job in prompts) <= 1
    assert ended == list(range(1, 9))


def test_a_long_prompt_lets_those_pass_that_come_while_it_would_be_read() -> None:
    for came_s, first in ((0.2, 2), (0.6, 1)):
        long, short = pass_over([], [(1, 290), (2, 20)])
        long.session.started, short.session.started = 0.0, came_s
        share, *_ = compose([long, short], FREE, LIMITS, NOTHING_KEPT)
        assert share.job.session.slot == first


def test_a_long_prompt_that_is_known_is_no_long_one() -> None:
    known, short = pass_over([], [(1, 290), (2, 60)])
    known.session.started = short.session.started = 0.0
    prefixes = PrefixCache(1 << 20)
    for key in prefixes.keys_between(known.session, 0, len(PROMPT)):
        prefixes.store(key, np.zeros(1, np.float32))
    short.session.tokens = [6] * 61
    short.session.num_cached = 0
    share, *_ = compose([short, known], FREE, LIMITS, prefixes)
    assert share.job is known


costs = st.tuples(
    st.floats(0.0, 0.1), st.floats(1e-4, 5e-3), st.sampled_from((0.0, 1e-5, 2e-4, 1e-3))
).map(lambda c: PassCost({2: c[0] + 2 * c[1], 256: c[0] + 256 * c[1]}, padding_s=c[2]))


@given(
    st.permutations(range(12)),
    st.integers(0, 6),
    st.lists(st.integers(2, 290), min_size=1, max_size=6),
    costs,
    st.floats(1e-3, 0.2),
    st.booleans(),
)
def test_prompts_hold_nobody_up_for_long_and_get_on(
    slots: list[int],
    num_decoding: int,
    lengths: list[int],
    cost: PassCost,
    delay_s: float,
    is_turn: bool,
) -> None:
    decoding, others = slots[:num_decoding], slots[num_decoding:]
    waiting = pass_over(decoding, list(zip(others, lengths, strict=False)))
    limits = Limits(256, delay_s)
    how: dict[str, Any] = {"is_decoding": bool(decoding)}
    shares = compose(waiting, cost, limits, NOTHING_KEPT, is_prompts_turn=is_turn, **how)
    drafts, prompts = split(shares)
    assert len(drafts) in (0, num_decoding)
    assert {s.job.session.slot for s in shares} <= {j.session.slot for j in waiting}
    assert num_tokens(prompts) <= limits.prefill_tokens
    if decoding and num_tokens(prompts) > 1:
        least_s = 0.0 if drafts else cost.seconds(FEW_TOKENS)
        most_s = cost.of(shape_of(drafts)) if drafts else 0.0
        assert cost.of(shape_of(shares)) <= most_s + max(delay_s, least_s) + 1e-9
    if not prompts:
        # Left out, they are next.
        turn = compose(waiting, cost, limits, NOTHING_KEPT, is_prompts_turn=True, **how)
        drafts_then, alone = split(turn)
        assert (drafts_then, bool(alone)) == ([], True)
        if len(lengths) == 1:
            (prompt,) = alone
            before, own = shape_of(drafts), shape_of(alone)
            spent_s = cost.of(before) + cost.of(own)
            by_turns = (before.num_tokens + own.num_tokens) / spent_s
            assert by_turns > CLEARLY * rate_beside(prompt, before, cost, delay_s)


def rate_beside(prompt: Share, drafts: Shape, cost: PassCost, delay_s: float) -> float:
    """Tokens a second of a pass of drafts with as many of the prompt as may go along."""
    session = prompt.job.session
    together = [drafts.joined(session.slot, count) for count in range(1, session.num_uncached)]
    fitting = [shape for shape in together if cost.of(shape) <= cost.of(drafts) + delay_s]
    longest = fitting[-1] if fitting else together[0]
    return longest.num_tokens / cost.of(longest)


def test_a_shape_begins_anew_with_each_pass() -> None:
    assert shape_of([]) == Shape()
    first, second = pass_over([2, 5], [])
    shares = [Share(first, 0, [1, 2, 3]), Share(second, 0, [1])]
    assert shape_of(shares) == Shape(4, 3, 2, 5)
    assert shape_of(shares).num_padding == 8
