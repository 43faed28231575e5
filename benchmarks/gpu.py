"""python -m benchmarks.gpu: what a GPU does with the target, in one call that prints the tables.

Cost-faithful targets (benchmarks/grow.py) on the device and on the CPU: logits compared, rows
checked bit for bit, passes timed; then tokens per second of plain decoding and by quorum, drafters
on the CPU and on the device. `--device cpu --targets family` runs all of it without a GPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from itertools import product
from operator import eq

import numpy as np

from benchmarks.contestants import THREADS, Cell, Target, contestant, prepare
from shared.lm.decoder import PASS_TOKENS, Decoder, Device, Row, load_decoder
from shared.lm.self_test import check_rows

SIZES = (2, 8, 32, 64, 128)
NUM_COMPARED = 64
NUM_TIMED = 10
TEMPERATURES = (0.0, 0.8)
DRAFT_LENGTH = 5
WAYS: dict[Device, list[tuple[str, Device]]] = {
    "cuda": [("plain", "cpu"), ("auto", "cuda"), ("auto", "cpu")],
    "cpu": [("plain", "cpu"), ("auto", "cpu")],
}
"""Systems, and where their draft models compute. Plain first: its texts are the measure."""


def passes(target: Target, precision: str, device: Device) -> str:
    """A row of the first table."""
    decoder = load_decoder(
        target.exported(precision),
        max_slots=4,
        num_threads=THREADS,
        device=device,
        pass_tokens=PASS_TOKENS[device],
    )
    exact = load_decoder(target.exported("fp32"), max_slots=1, num_threads=THREADS)
    text = np.random.default_rng(0).integers(0, decoder.manifest.vocab_size, NUM_COMPARED).tolist()
    row = Row(0, 0, text, NUM_COMPARED)
    (there,), (here,) = decoder.forward([row]), exact.forward([row])
    checked = check_rows(decoder)
    milliseconds = [1e3 * _seconds(decoder, size) for size in SIZES]
    return (
        f"| {target.name} | {precision} | {np.abs(there - here).max():.2g} "
        f"| {(there.argmax(axis=1) == here.argmax(axis=1)).mean():.1%} "
        f"| {checked.num_unequal} of {checked.num_compared} "
        f"| {' | '.join(f'{ms:.1f}' for ms in milliseconds)} |"
    )


def _seconds(decoder: Decoder, num_tokens: int) -> float:
    """Of a pass over so many tokens of one request."""
    durations = []
    for _ in range(NUM_TIMED):
        started = time.perf_counter()
        decoder.forward([Row(0, 0, [1] * num_tokens, 2)])
        durations.append(time.perf_counter() - started)
    return statistics.median(durations)


def print_speeds(
    target: Target, precision: str, device: Device, loads: Sequence[int], max_tokens: int
) -> None:
    """The second table's rows for one target."""
    os.environ["VERIFIER_DEVICE"] = device
    texts: dict[Cell, list[object]] = {}
    for system, drafters_on in WAYS[device]:
        os.environ["DRAFTER_DEVICE"] = drafters_on
        with contestant(f"quorum:{system}:{precision}", target, DRAFT_LENGTH, "") as running:
            for load in loads:
                for temperature in TEMPERATURES:
                    cell = Cell("code", temperature, load)
                    running.run(cell, max_tokens)
                    run = running.run(cell, max_tokens)
                    plain = texts.setdefault(cell, run.outputs)
                    num_equal = sum(map(eq, run.outputs, plain))
                    print(
                        f"| {target.name} {precision} | {temperature:g} | {load} | {system} "
                        f"| {drafters_on} | {len(run.outputs) * max_tokens / run.seconds:.0f} "
                        f"| {run.acceptance:.2f} | {num_equal} of {len(plain)} |",
                        flush=True,
                    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--targets", default="110m,1b", help="of family, 110m, 700m, 1b, 7b")
    parser.add_argument("--precisions", default="half", help="of half, fp32, int8, int4")
    parser.add_argument("--concurrency", default="1,8,32,64")
    parser.add_argument("--max-tokens", type=int, default=128)
    arguments = parser.parse_args()
    targets = [prepare(name) for name in arguments.targets.split(",")]
    precisions = arguments.precisions.split(",")
    loads = [int(load) for load in arguments.concurrency.split(",")]
    sizes = " | ".join(f"{size} tokens, ms" for size in SIZES)
    print(f"| target | precision | largest difference to fp32 on the CPU | same greedy token "
          f"| rows unequal | {sizes} |")  # fmt: skip
    print("|---" * (5 + len(SIZES)) + "|")
    for target, precision in product(targets, precisions):
        print(passes(target, precision, arguments.device), flush=True)
    print("\n| target | temperature | requests | way | drafters on | tokens/s | tokens a pass "
          "| texts as plain |")  # fmt: skip
    print("|---" * 8 + "|")
    for target, precision in product(targets, precisions):
        print_speeds(target, precision, arguments.device, loads, arguments.max_tokens)


if __name__ == "__main__":
    main()
