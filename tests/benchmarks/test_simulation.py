"""The simulation against what can be computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.measured import DRAFTERS, Measured
from benchmarks.simulate import COMMANDS_A_ROUND, fit
from benchmarks.simulation import Costs, Fleet, Load, World

PLAIN = Costs(
    gateway_request=0.001,
    gateway_round=0.0005,
    verifier_round=0.0004,
    voter_round=0.0003,
    pass_base=0.002,
    pass_row=0.0002,
    drafters={},
    command=0.00002,
    acceptance=(1,),
)
DRAFTED = replace(PLAIN, drafters={"a": (0.001, 0.0005), "b": (0.002, 0.0005)}, acceptance=(4,))
OWN_CORES = Fleet(1, cores_each=1)


def test_one_request_alone_takes_the_sum_of_its_work() -> None:
    result = World(PLAIN, OWN_CORES, Load(1, 10, seconds=2.0, warm_up_s=0.5)).run()
    # The last tokens' way to the gateway is waited for; those before are told meanwhile.
    message = 2 * PLAIN.command + PLAIN.gateway_round
    each = PLAIN.verifier_round + PLAIN.pass_base + PLAIN.pass_row
    expected = PLAIN.gateway_request + 2 * PLAIN.command + 10 * each + message
    assert result.median_latency_s == pytest.approx(expected, rel=1e-6)


def test_a_drafted_round_waits_for_the_slowest_drafter_and_the_vote() -> None:
    result = World(DRAFTED, OWN_CORES, Load(1, 4, seconds=2.0, warm_up_s=0.5)).run()
    c = DRAFTED.command
    # Asking is three writes. Each proposal is one read, then a write and a read; those of the
    # drafter that is done sooner are out of the way.
    drafting = 3 * c + 2 * c + (0.002 + 0.0005) + 2 * c + DRAFTED.voter_round + 2 * c
    each = DRAFTED.verifier_round + drafting + DRAFTED.pass_base + DRAFTED.pass_row
    expected = DRAFTED.gateway_request + 2 * c + each + 2 * c + DRAFTED.gateway_round
    assert result.median_latency_s == pytest.approx(expected, rel=1e-6)


def test_a_host_does_no_more_than_its_cores_can() -> None:
    result = World(DRAFTED, Fleet(2, host_cores=2), Load(8, 16, seconds=4.0, warm_up_s=1.0)).run()
    least = (
        DRAFTED.verifier_round + DRAFTED.pass_row + DRAFTED.voter_round + 2 * 0.0005
        + DRAFTED.gateway_round
    ) / 4  # fmt: skip
    assert 0 < result.tokens_per_s * least <= 2.0


def test_redis_is_the_limit_when_its_commands_are_slow() -> None:
    slow = replace(PLAIN, command=0.002)
    result = World(slow, Fleet(8, cores_each=1), Load(8, 16, seconds=4.0, warm_up_s=2.0)).run()
    assert result.redis_busy == pytest.approx(1.0, abs=0.02)
    assert result.commands_per_s == pytest.approx(1 / slow.command, rel=0.05)


def test_the_same_seed_is_the_same_run() -> None:
    load = Load(4, 16, seconds=1.0, warm_up_s=0.5)
    varied = replace(DRAFTED, acceptance=(1, 2, 5))
    first, second, other = (World(varied, Fleet(2), load, seed).run() for seed in (1, 1, 2))
    assert first == second != other


def test_fitted_costs_are_those_that_the_runs_were_made_of() -> None:
    true = Costs(0.0, 0.0004, 0.0003, 0.0002, 0.002, 0.0003,
                 {models: (0.001, 0.0004) for models in DRAFTERS}, 0.00003, (2, 3))  # fmt: skip
    found = fit([_run(true, rounds=1000, batches=1000), _run(true, rounds=4000, batches=600)])
    assert found.gateway_round == pytest.approx(true.gateway_round)
    assert found.pass_base == pytest.approx(true.pass_base)
    assert found.pass_row + found.verifier_round == pytest.approx(0.0006)
    assert found.command == pytest.approx(true.command)
    assert found.drafters[DRAFTERS[0]] == pytest.approx((0.001, 0.0004))


def _run(costs: Costs, rounds: int, batches: int) -> Measured:
    cpu_s = {
        "gateway": rounds * costs.gateway_round,
        "voter": rounds * costs.voter_round,
        "verifier": batches * costs.pass_base + rounds * (costs.pass_row + costs.verifier_round),
        "redis": rounds * COMMANDS_A_ROUND * costs.command,
        **{models: batches * base + rounds * row for models, (base, row) in costs.drafters.items()},
    }
    counts = {f"{models}:draft_seconds_count": float(batches) for models in DRAFTERS}
    counts["verifier:forward_pass_rows_count"] = float(batches)
    return Measured(1, 1, 10.0, round(2.5 * rounds), [1.0], [2, 3], cpu_s, counts)
