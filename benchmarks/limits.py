"""python -m benchmarks.limits: what drafts could bring at most, by what passes of a target cost.

Times passes of several requests with one to eight more tokens each, by turns, and divides: if every
drafted token were accepted, and drafting and voting took no time, speculation would be this many
times as fast as plain decoding. No drafter, vote or controller comes beyond that, since a pass
yields at most as many tokens as went into it. The second figure is the same with a drafted token
accepted with a given chance, each only behind the one before.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.contestants import THREADS, prepare
from shared.lm.decoder import Decoder, Row, load_decoder

CONTEXT = 128
LONGEST = 8
CHANCE = 0.83
"""Of a drafted greedy token, if either shipped draft model proposes it (their model cards)."""


def time_passes(
    decoder: Decoder, loads: Sequence[int], repeats: int
) -> dict[tuple[int, int], float]:
    """Median seconds of a pass by the number of requests and the tokens of each."""
    rng = np.random.default_rng(0)
    words = rng.integers(4, decoder.manifest.vocab_size, CONTEXT + LONGEST).tolist()
    for slot in range(max(loads)):
        decoder.forward([Row(slot, 0, words[:CONTEXT], 1)])
    cells = [(load, length) for load in loads for length in range(1, LONGEST + 1)]
    seconds: dict[tuple[int, int], list[float]] = {cell: [] for cell in cells}
    for repeat in range(-1, repeats):
        for load, length in cells:
            new = words[CONTEXT : CONTEXT + length]
            rows = [Row(slot, CONTEXT, new, length) for slot in range(load)]
            started = time.perf_counter()
            decoder.forward(rows)
            if repeat >= 0:
                seconds[load, length].append(time.perf_counter() - started)
    return {cell: statistics.median(values) for cell, values in seconds.items()}


def most(seconds: Mapping[tuple[int, int], float], load: int, chance: float) -> tuple[float, int]:
    """The largest ratio to plain decoding, and tokens of each request that give it; drafts are
    free, and each token is accepted with that chance if the one before it was."""
    ratios = {}
    for length in range(1, LONGEST + 1):
        num_tokens = sum(chance**place for place in range(length))
        ratios[length] = num_tokens * seconds[load, 1] / seconds[load, length]
    best = max(ratios, key=lambda length: ratios[length])
    return ratios[best], best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", default="110m,family", help="of family, 110m, 700m")
    parser.add_argument("--precisions", default="fp32,int8,int4")
    parser.add_argument("--concurrency", default="1,2,4,8,16,32,64")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    loads = [int(load) for load in arguments.concurrency.split(",")]
    lengths = " | ".join(f"{length}" for length in range(1, LONGEST + 1))
    print("| target | precision | at a time | ms a pass at tokens of each request: "
          f"{lengths} | perfect drafts | accepted with {CHANCE} |")  # fmt: skip
    print("|---" * (5 + LONGEST) + "|")
    for name in arguments.targets.split(","):
        for precision in arguments.precisions.split(","):
            folder = prepare(name).exported(precision)
            decoder = load_decoder(folder, max_slots=max(loads), num_threads=THREADS)
            seconds = time_passes(decoder, loads, arguments.repeats)
            for load in loads:
                passes = [1e3 * seconds[load, length] for length in range(1, LONGEST + 1)]
                bounds = [most(seconds, load, chance) for chance in (1.0, CHANCE)]
                print(
                    f"| {name} | {precision} | {load} "
                    f"| {' | '.join(f'{ms:.1f}' for ms in passes)} "
                    f"| {' | '.join(f'{ratio:.2f} ({length})' for ratio, length in bounds)} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
