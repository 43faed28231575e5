"""The load generator: every request once, never more open than allowed, and honest clocks."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.load import INTERRUPTED, Load, Plan
from services.cli.report import Record, lines, report, spread


async def at_once(number: int, record: Record) -> str | None:
    record.num_tokens = 2
    return "odd" if number % 2 else None


@pytest.mark.parametrize("rate", [None, 5000.0])
@pytest.mark.parametrize("max_open", [1, 3, 64])
async def test_every_request_is_one_record_and_no_more_are_open_than_may(
    rate: float | None, max_open: int
) -> None:
    open_now, most, numbers = 0, 0, []

    async def send(number: int, record: Record) -> str | None:
        nonlocal open_now, most
        numbers.append(number)
        open_now += 1
        most = max(most, open_now)
        for _ in range(number % 5):
            await asyncio.sleep(0)
        open_now -= 1
        return None if number % 3 else "third"

    load = Load(Plan(max_open, num_requests=50, rate=rate), send)
    seconds = await load.run()
    assert sorted(numbers) == list(range(50))
    assert len(load.records) == load.num_done == 50
    assert load.num_open == 0
    assert most <= max_open
    assert load.most_open <= max_open
    done = report(load.records, seconds, load.most_open)
    assert done.errors == {"third": 17}
    assert done.num_succeeded + sum(done.errors.values()) == done.num_requests == 50


async def test_without_a_rate_as_many_are_open_as_may() -> None:
    arrived = asyncio.Semaphore(0)
    gate = asyncio.Event()

    async def send(number: int, record: Record) -> str | None:
        arrived.release()
        await gate.wait()
        return None

    load = Load(Plan(4, num_requests=6), send)
    running = asyncio.create_task(load.run())
    async with asyncio.timeout(5):
        for _ in range(4):
            await arrived.acquire()
        assert (load.num_open, load.num_done) == (4, 0)
        gate.set()
        await running
    assert (load.num_open, load.num_done, load.most_open) == (0, 6, 4)


async def test_with_a_rate_the_clock_starts_when_a_request_is_due() -> None:
    """A server that is stuck delays those that are due meanwhile, and that is told."""

    async def send(number: int, record: Record) -> str | None:
        if number == 0:
            await asyncio.sleep(0.2)
        return None

    load = Load(Plan(1, num_requests=20, rate=1000.0), send)
    await load.run()
    waits = [record.total_s for record in load.records]
    assert waits[0] > 0.19
    # Due within some 20 ms, and served after 200.
    assert min(waits[1:5]) > 0.1


async def test_arrivals_are_those_of_the_seed_and_of_the_rate() -> None:
    def due(seed: int) -> list[float]:
        return list(Load(Plan(1, num_requests=4000, rate=50.0, seed=seed), at_once)._arrivals())

    assert due(1) == due(1)
    assert due(1) != due(2)
    gaps = [b - a for a, b in pairwise(due(1))]
    assert abs(sum(gaps) / len(gaps) * 50 - 1) < 0.05
    # Of an exponential distribution, 1/e are longer than the mean.
    assert abs(sum(gap > 0.02 for gap in gaps) / len(gaps) - 0.368) < 0.03


async def test_seconds_end_the_beginning_of_new_ones_and_those_open_are_waited_for() -> None:
    async def send(number: int, record: Record) -> str | None:
        await asyncio.sleep(0.02)
        return None

    load = Load(Plan(2, seconds=0.1), send)
    seconds = await load.run()
    assert 0.09 < seconds < 5
    assert load.num_done == len(load.records) >= 4
    assert all(record.error is None for record in load.records)


async def test_a_cancel_ends_what_is_open_as_interrupted() -> None:
    begun = asyncio.Event()

    async def send(number: int, record: Record) -> str | None:
        if number < 3:
            return None
        begun.set()
        await asyncio.Event().wait()
        return None

    load = Load(Plan(1, num_requests=10), send)
    running = asyncio.create_task(load.run())
    async with asyncio.timeout(5):
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert [record.error for record in load.records] == [None, None, None, INTERRUPTED]
    assert load.num_open == 0


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=300))
def test_percentiles_are_values_that_that_many_do_not_exceed(values: list[float]) -> None:
    found = spread(values)
    assert found is not None
    for value, percent in ((found.p50, 50), (found.p90, 90), (found.p99, 99)):
        assert value in values
        assert sum(v <= value for v in values) * 100 >= percent * len(values)
        assert sum(v < value for v in values) * 100 < percent * len(values)
    assert found.max == max(values)


def test_a_report_tells_rates_latencies_and_errors() -> None:
    records = [
        Record(0, first_s=0.1, total_s=1.0, num_tokens=10, num_prompt_tokens=3),
        Record(0, first_s=0.3, total_s=0.3, num_tokens=1, num_prompt_tokens=3),
        Record(0, total_s=9.0, num_tokens=5, error="HTTP 429", message="wait"),
        Record(0, total_s=9.0, error="HTTP 429", message="wait longer"),
        Record(0, total_s=9.0, error="timeout"),
    ]
    done = report(records, seconds=2.0, most_open=3)
    assert (done.num_requests, done.num_succeeded) == (5, 2)
    assert done.errors == {"HTTP 429": 2, "timeout": 1}
    assert (done.num_tokens, done.num_prompt_tokens, done.tokens_per_second) == (11, 6, 5.5)
    assert done.first_token_s is not None
    assert (done.first_token_s.p50, done.first_token_s.max) == (0.1, 0.3)
    assert done.inter_token_s is not None
    assert done.inter_token_s.p50 == pytest.approx(0.1)
    assert done.total_s is not None
    assert done.total_s.max == 1.0
    text = "\n".join(lines(done, "tokens"))
    assert "5 requests in 2.00 s, 3 failed, at most 3 at a time" in text
    assert "  2 x HTTP 429: wait\n  1 x timeout\n" in text
    assert "1.00 requests/s, 5.5 tokens/s, 11 tokens" in text


def test_nothing_that_succeeded_has_no_latencies() -> None:
    done = report([Record(0, error="timeout")], 1.0, 1)
    assert (done.first_token_s, done.inter_token_s, done.total_s) == (None, None, None)
    assert len(list(lines(done, "tokens"))) == 3
