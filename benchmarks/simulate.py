"""python -m benchmarks.simulate: what one machine cannot show, from costs measured on it.

The real system runs with few and with many requests, every service a process, and the CPU time of
each piece of work is taken from it. Other set-ups are predicted and then measured, and 1 to 1,000
verifiers simulated, on one Redis and on several.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.generation import ROOT
from benchmarks.measured import DRAFTERS, NUM_TOKENS, SECONDS, WARM_UP_S, Measured, measure
from benchmarks.simulation import Costs, Fleet, Load, Result, World

RESULT = ROOT / "benchmarks" / "results" / "simulation.json"
PLOT = ROOT / "benchmarks" / "results" / "simulation.png"
COMMANDS_A_ROUND = 2 * (1 + len(DRAFTERS)) + 2 * len(DRAFTERS) + 2 + 2
CALIBRATION = (1, 8)
VALIDATION = ((1, 4), (2, 2), (2, 4))
"""(verifiers, requests at a time for each)."""
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
SHARDS = (1, 4, 16, 64)
MOST_ON_A_REDIS = 32
"""Well beyond what saturates one; more would wait, and change nothing."""


def fit(runs: Sequence[Measured]) -> Costs:
    """CPU time of each piece of work, from runs with few and with many requests at a time."""
    rounds = [run.num_tokens / statistics.fmean(run.acceptance) for run in runs]

    def each_round(service: str) -> float:
        return statistics.fmean(r.cpu_s[service] / n for r, n in zip(runs, rounds, strict=True))

    def batch(service: str, counter: str) -> tuple[float, float]:
        batches = [run.counts[f"{service}:{counter}"] for run in runs]
        return _two_costs([run.cpu_s[service] for run in runs], batches, rounds)

    pass_base, per_row = batch("verifier", "forward_pass_rows_count")
    return Costs(
        gateway_request=0.0,
        gateway_round=each_round("gateway"),
        # Half of what a row costs is the loop's work, half the pass's: one core does either.
        verifier_round=per_row / 2,
        voter_round=each_round("voter"),
        pass_base=pass_base,
        pass_row=per_row / 2,
        drafters={models: batch(models, "draft_seconds_count") for models in DRAFTERS},
        command=each_round("redis") / COMMANDS_A_ROUND,
        acceptance=tuple(n for run in runs for n in run.acceptance),
    )


def _two_costs(
    cpu_s: Sequence[float], batches: Sequence[float], rows: Sequence[float]
) -> tuple[float, float]:
    """Solves cpu = batches * base + rows * row over two runs, neither cost below nothing."""
    determinant = batches[0] * rows[1] - batches[1] * rows[0]
    base = (cpu_s[0] * rows[1] - cpu_s[1] * rows[0]) / determinant if determinant else 0.0
    base = min(max(base, 0.0), min(c / b for c, b in zip(cpu_s, batches, strict=True)))
    row = statistics.fmean((c - b * base) / r for c, b, r in zip(cpu_s, batches, rows, strict=True))
    return base, row


def predict(costs: Costs, num_verifiers: int, at_a_time: int) -> Result:
    """What this machine should do."""
    fleet = Fleet(num_verifiers, host_cores=os.cpu_count() or 1)
    return World(costs, fleet, Load(at_a_time, NUM_TOKENS, SECONDS, WARM_UP_S)).run()


def extrapolate(costs: Costs) -> Iterator[dict[str, float]]:
    """Each process on cores of its own; as many drafters, voters and gateways as keep up. Shards
    share nothing, so one is simulated with its part of the verifiers."""
    load = Load(8, NUM_TOKENS, seconds=3.0, warm_up_s=3.0)
    for num_shards in SHARDS:
        for num_verifiers in SIZES:
            share = round(num_verifiers / num_shards)
            if not 1 <= share <= MOST_ON_A_REDIS:
                continue
            fleet = Fleet(share, gateways=max(1, share // 2), voters=share, drafters=share,
                          cores_each=1, network_s=1e-4)  # fmt: skip
            result = World(costs, fleet, load).run()
            yield {
                "shards": num_shards,
                "verifiers": num_verifiers,
                "tokens_per_s": num_shards * result.tokens_per_s,
                "median_latency_s": result.median_latency_s,
                "p99_latency_s": result.p99_latency_s,
                "commands_per_s": num_shards * result.commands_per_s,
                "redis_busy": result.redis_busy,
            }


def draw(points: Sequence[Mapping[str, float]], file: Path) -> None:
    """Throughput and latency over the number of verifiers, a line for each number of shards."""
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(7, 6), sharex=True, layout="constrained"
    )
    for num_shards in sorted({point["shards"] for point in points}):
        line = [point for point in points if point["shards"] == num_shards]
        sizes = [point["verifiers"] for point in line]
        label = f"{num_shards:.0f} Redis"
        above.plot(sizes, [point["tokens_per_s"] for point in line], marker="o", label=label)
        below.plot(sizes, [point["p99_latency_s"] for point in line], marker="o", label=label)
    above.set(xscale="log", yscale="log", ylabel="tokens per second")
    below.set(
        xscale="log", yscale="log", xlabel="verifiers", ylabel=f"p99 of {NUM_TOKENS} tokens, s"
    )
    above.legend()
    figure.savefig(file, dpi=120)


def validate(costs: Costs) -> Iterator[dict[str, float]]:
    """Set-ups that were not calibrated on: first predicted, then measured."""
    for num_verifiers, at_a_time in VALIDATION:
        predicted = predict(costs, num_verifiers, at_a_time)
        measured = measure(num_verifiers, at_a_time)
        latency_s = statistics.median(measured.latencies)
        yield {
            "verifiers": num_verifiers,
            "at_a_time": at_a_time,
            "predicted_tokens_per_s": predicted.tokens_per_s,
            "measured_tokens_per_s": measured.tokens_per_s,
            "throughput_ratio": predicted.tokens_per_s / measured.tokens_per_s,
            "predicted_latency_s": predicted.median_latency_s,
            "measured_latency_s": latency_s,
            "latency_ratio": predicted.median_latency_s / latency_s,
        }


def _table(rows: Sequence[Mapping[str, float]]) -> str:
    lines = [" | ".join(rows[0]), " | ".join("---" for _ in rows[0])]
    lines += [" | ".join(f"{value:.4g}" for value in row.values()) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--costs", action="store_true", help="take the costs of the last result")
    arguments = parser.parse_args()
    result = json.loads(RESULT.read_text()) if arguments.costs else {}
    if arguments.costs:
        costs = Costs(**result["costs"])
    else:
        costs = fit([measure(1, at_a_time) for at_a_time in CALIBRATION])
        result["costs"] = asdict(costs)
        result["validation"] = list(validate(costs))
    print({**asdict(costs), "acceptance": statistics.fmean(costs.acceptance)})
    print(_table(result["validation"]))
    result["extrapolation"] = list(extrapolate(costs))
    print(_table(result["extrapolation"]))
    result["cores"] = os.cpu_count()
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    draw(result["extrapolation"], PLOT)


if __name__ == "__main__":
    main()
