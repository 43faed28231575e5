"""The engine: cache slots without gaps, passes shared fairly, a failed pass fails its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from services.verifier.batch import Limits
from services.verifier.drafting import Drafting, Load, Way
from services.verifier.engine import Engine
from services.verifier.pass_cost import PassCost, Shape
from services.verifier.prefix_cache import PrefixCache
from services.verifier.session import Session
from shared.errors import ModelError
from shared.generation import Sampling
from shared.lm.decoder import Decoder, FloatArray, Row, load_decoder
from shared.messages import GenerateRequest
from tests.system import decode_plainly
from tests.toy import VOCAB_SIZE, write_toy

GREEDY = Sampling(temperature=0.0)
PREFILL_TOKENS = 16
PREFILL_DELAY_S = 4.0


class Fixed(PassCost):
    """A second a token, whatever passes take: four tokens of a prompt go along with others."""

    def observe(self, shape: Shape, seconds: float) -> None:
        pass


COST = Fixed({2: 1.0, 1000: 999.0})


class Watched:
    """The decoder, and the rows of each pass that it ran."""

    def __init__(self, decoder: Decoder) -> None:
        self.manifest = decoder.manifest
        self.max_slots = decoder.max_slots
        self.passes: list[list[Row]] = []
        self.fails_at: int | None = None
        self._decoder = decoder
        self.move, self.free = decoder.move, decoder.free
        self.read, self.write = decoder.read, decoder.write

    def forward(self, rows: Sequence[Row]) -> list[FloatArray]:
        self.passes.append(list(rows))
        if self.fails_at == len(self.passes):
            raise ModelError("out of luck")
        return self._decoder.forward(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy") / "target")


@pytest.fixture
def decoder(folder: Path) -> Watched:
    return Watched(load_decoder(folder, max_slots=6, num_threads=1))


@pytest.fixture
async def engine(decoder: Watched) -> AsyncIterator[Engine]:
    engine = Engine(decoder, COST, Limits(PREFILL_TOKENS, PREFILL_DELAY_S), PrefixCache(1 << 20, 8))
    running = asyncio.create_task(engine.run())
    yield engine
    running.cancel()
    await asyncio.wait([running])
    engine.close()


def session(seed: int, length: int, max_tokens: int = 30) -> Session:
    prompt = np.random.default_rng(seed).integers(2, VOCAB_SIZE, length).tolist()
    request = GenerateRequest(str(seed), "x", prompt, max_tokens, GREEDY, [], time.time() + 60)
    return Session(request, 0)


async def decode(engine: Engine, one: Session, until: int) -> None:
    while one.num_output_tokens < until:
        if one.num_uncached > 1:
            await engine.prefill(one)
        else:
            one.emit((await engine.verify(one, [], [])).tokens)


async def test_slots_stay_contiguous_and_caches_move_with_their_requests(
    engine: Engine, decoder: Watched, folder: Path
) -> None:
    """Requests leave from the middle and new ones come, while the others go on."""
    plain = load_decoder(folder, max_slots=1, num_threads=1)
    rng = np.random.default_rng(1)
    seats: dict[int, tuple[Session, ExitStack]] = {}
    for step in range(40):
        if len(seats) < 6 and rng.random() < 0.7:
            one, stack = session(step, int(rng.integers(1, 40)), 200), ExitStack()
            stack.enter_context(engine.seat(one))
            seats[step] = (one, stack)
        if seats and rng.random() < 0.5:
            one, stack = seats.pop(int(rng.choice(list(seats))))
            stack.close()
            expected = decode_plainly(plain, one.request.prompt, one.num_output_tokens, GREEDY)
            assert expected == one.tokens[one.num_prompt_tokens :]
        assert sorted(one.slot for one, _ in seats.values()) == list(range(len(seats)))
        await asyncio.gather(
            *(decode(engine, one, one.num_output_tokens + 2) for one, _ in seats.values())
        )
    for _, stack in seats.values():
        stack.close()
    assert max(len(rows) for rows in decoder.passes) > 2


async def test_a_long_prefill_does_not_hold_up_those_who_decode(
    engine: Engine, decoder: Watched
) -> None:
    long, short = session(1, 200), session(2, 2)
    with engine.seat(long), engine.seat(short):
        await decode(engine, short, 1)
        decoder.passes.clear()
        await asyncio.gather(decode(engine, long, 1), decode(engine, short, 20))
    together = [rows for rows in decoder.passes if len(rows) == 2]
    assert len(together) >= 18
    for decoding, prompt in together:
        assert (decoding.num_logits, prompt.num_logits) == (1, 0)
        assert len(prompt.tokens) <= PREFILL_DELAY_S + 1
    assert all(len(r.tokens) <= PREFILL_TOKENS for rows in decoder.passes for r in rows)


async def test_prompts_and_drafts_take_turns_where_padding_is_dear(
    decoder: Watched, folder: Path
) -> None:
    cost = Fixed({2: 3.0, 1000: 1001.0}, padding_s=9.0)
    engine = Engine(decoder, cost, Limits(PREFILL_TOKENS, PREFILL_DELAY_S), PrefixCache(0, 8))
    running = asyncio.create_task(engine.run())
    long, short = session(1, 90), session(2, 2)
    with engine.seat(long), engine.seat(short):
        await decode(engine, short, 1)
        decoder.passes.clear()
        await asyncio.gather(decode(engine, long, 1), decode(engine, short, 20))
    kinds = [[row.num_logits for row in rows] for rows in decoder.passes]
    # 88 tokens of the prompt, as many at a time as take no longer than a pass of eight does.
    turns = kinds[: 2 * 11]
    assert turns.count([0]) == turns.count([1]) == 11
    assert all(one != other for one, other in pairwise(turns))
    plain = load_decoder(folder, max_slots=1, num_threads=1)
    for one in (long, short):
        expected = decode_plainly(plain, one.request.prompt, one.num_output_tokens, GREEDY)
        assert expected == one.tokens[one.num_prompt_tokens :]
    running.cancel()
    await asyncio.wait([running])
    engine.close()


async def test_a_load_is_chosen_for_from_the_start_and_judged_when_it_decodes(
    decoder: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests whose prompts wait emit nothing: whoever is at work would be thought to bring too
    little."""
    chosen_for: set[Load] = set()
    observed: list[tuple[Load, int]] = []

    class Told(Drafting):
        def way(self, load: Load) -> Way:
            chosen_for.add(load)
            return super().way(load)

        def observe(self, load: Load, num_tokens: int, seconds: float) -> None:
            observed.append((load, num_tokens))
            super().observe(load, num_tokens, seconds)

    monkeypatch.setattr("services.verifier.engine.Drafting", Told)
    cost = Fixed({2: 3.0, 1000: 1001.0}, padding_s=9.0)
    engine = Engine(decoder, cost, Limits(PREFILL_TOKENS, PREFILL_DELAY_S), PrefixCache(0, 8))
    running = asyncio.create_task(engine.run())
    long, short = session(1, 90), session(2, 2)
    with engine.seat(long), engine.seat(short):
        await decode(engine, short, 1)
        await asyncio.gather(engine.prefill(long), decode(engine, short, 8))
        assert long.num_uncached > 1
        assert chosen_for == {Load(2, 0)}
        assert observed == []
        await asyncio.gather(decode(engine, long, 12), decode(engine, short, 22))
        assert Load(2, 0) in {load for load, num_tokens in observed if num_tokens == 2}
    running.cancel()
    await asyncio.wait([running])
    engine.close()


async def test_a_draft_token_costs_less_where_much_passes_between_two_passes(
    decoder: Watched,
) -> None:
    cost = Fixed({2: 1e-6, 1000: 999e-6})
    engine = Engine(decoder, cost, Limits(PREFILL_TOKENS, PREFILL_DELAY_S), PrefixCache(0, 8))
    running = asyncio.create_task(engine.run())
    one = session(1, 2)
    with engine.seat(one):
        assert engine.price == 1.0, "a pass takes as long as a token"
        await decode(engine, one, 20)
        assert engine.price < 0.5, "a round takes much longer"
    running.cancel()
    await asyncio.wait([running])
    engine.close()


async def test_prompts_that_fit_together_share_a_pass(engine: Engine, decoder: Watched) -> None:
    sessions = [session(n, 5) for n in range(4)]
    with ExitStack() as stack:
        for one in sessions:
            stack.enter_context(engine.seat(one))
        await asyncio.gather(*(decode(engine, one, 1) for one in sessions))
    assert len(decoder.passes[0]) == 4
    assert sum(len(row.tokens) for row in decoder.passes[0]) == PREFILL_TOKENS


async def test_a_failed_pass_fails_those_in_it_and_the_engine_goes_on(
    engine: Engine, decoder: Watched
) -> None:
    one = session(1, 3)
    with engine.seat(one):
        decoder.fails_at = 1
        with pytest.raises(ModelError, match="out of luck"):
            await decode(engine, one, 1)
        await decode(engine, one, 3)
    assert one.num_output_tokens == 3


async def test_a_cancelled_job_is_not_run(decoder: Watched) -> None:
    engine = Engine(decoder, COST, Limits(PREFILL_TOKENS, PREFILL_DELAY_S), PrefixCache(1 << 20, 8))
    gone, here = session(1, 3), session(2, 3)
    with engine.seat(gone), engine.seat(here):
        leaving = asyncio.create_task(decode(engine, gone, 1))
        staying = asyncio.create_task(decode(engine, here, 1))

        async def cancel_and_run() -> None:
            # Begun after the two above: both jobs wait by now.
            leaving.cancel()
            await engine.run()

        running = asyncio.create_task(cancel_and_run())
        await staying
    assert decoder.passes
    assert all(row.slot == here.slot for rows in decoder.passes for row in rows)
    running.cancel()
    await asyncio.wait([running])
    engine.close()


async def test_a_pass_waits_for_those_on_their_way_back_but_for_nobody_who_stays_away(
    engine: Engine, decoder: Watched
) -> None:
    """Requests that begin one after the other share all passes from then on."""
    sessions = [session(n, 2) for n in range(5)]
    with ExitStack() as stack:
        for one in sessions:
            stack.enter_context(engine.seat(one))
        await decode(engine, sessions[0], 3)
        decoder.passes.clear()
        # The first one stays away from here on.
        await asyncio.gather(*(decode(engine, one, 10 + n) for n, one in enumerate(sessions[1:])))
    assert sum(len(rows) == 4 for rows in decoder.passes) >= 9


async def test_drafts_are_cut_where_more_would_not_pay(engine: Engine, decoder: Watched) -> None:
    """At a second a token, what is hardly ever accepted is left out, and told so."""
    one = session(1, 2)
    with engine.seat(one):
        await decode(engine, one, 1)
        verified = await engine.verify(one, [5, 6, 7, 8], [0.99, 0.95, 0.1, 0.01])
        assert list(verified.draft) == [5]
        one.emit(verified.tokens)
        whole = await engine.verify(one, [5, 6, 7, 8], [])
        assert list(whole.draft) == [5, 6, 7, 8]
    assert [len(rows[0].tokens) for rows in decoder.passes[-2:]] == [2, 5]


def begins(seed: int, system: list[int], length: int) -> Session:
    own = np.random.default_rng(seed).integers(2, VOCAB_SIZE, length).tolist()
    request = GenerateRequest(str(seed), "x", system + own, 30, GREEDY, [], time.time() + 60)
    return Session(request, 0)


async def test_what_prompts_share_is_computed_once(
    engine: Engine, decoder: Watched, folder: Path
) -> None:
    """Also by those that came at the same time; the next turn of a chat knows the last answer."""
    plain = load_decoder(folder, max_slots=1, num_threads=1)
    system = np.random.default_rng(0).integers(2, VOCAB_SIZE, 30).tolist()
    together = [begins(n, system, 5) for n in range(5)]
    with ExitStack() as stack:
        for one in together:
            stack.enter_context(engine.seat(one))
        await asyncio.gather(*(decode(engine, one, 20) for one in together))
    computed = [row for rows in decoder.passes for row in rows if row.num_logits == 0]
    # 24 tokens are whole blocks, and the last token of a prompt is verified.
    assert sum(len(row.tokens) for row in computed) == 34 + 4 * 10
    assert sum(one.num_reused_tokens for one in together) == 4 * 24
    for one in together:
        expected = decode_plainly(plain, one.request.prompt, 20, GREEDY)
        assert expected == one.tokens[one.num_prompt_tokens :]
    next_turn = begins(9, together[1].tokens, 4)
    with engine.seat(next_turn):
        await decode(engine, next_turn, 20)
    assert next_turn.num_reused_tokens == 48
    expected = decode_plainly(plain, next_turn.request.prompt, 20, GREEDY)
    assert expected == next_turn.tokens[next_turn.num_prompt_tokens :]
