"""python -m benchmarks.gpu: what a GPU does with the target, in one call that prints the tables.

Cost-faithful targets (benchmarks/grow.py) on the device and on the CPU: logits compared, rows
checked bit for bit, passes timed; then tokens per second of plain decoding and by quorum, drafters
on the CPU and on the device. Weights are computed in fp32: there is no fp16 graph. Written where
no GPU was at hand; `--device cpu --targets family` runs all of it there.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.contestants import THREADS, Cell, contestant, prepare
from shared.lm.decoder import Decoder, Device, Row, load_decoder
from shared.lm.self_test import check_rows

SIZES = (2, 8, 32, 64, 128)
NUM_COMPARED = 64
NUM_TIMED = 10


def passes(folder: Path, device: Device) -> str:
    """A row of the first table."""
    target = load_decoder(folder, max_slots=4, num_threads=THREADS, device=device)
    text = np.random.default_rng(0).integers(0, target.manifest.vocab_size, NUM_COMPARED).tolist()
    row = Row(0, 0, text, NUM_COMPARED)
    (there,) = target.forward([row])
    (here,) = load_decoder(folder, max_slots=1, num_threads=THREADS).forward([row])
    checked = check_rows(target)
    milliseconds = [1e3 * _seconds(target, size) for size in SIZES]
    return (
        f"| {folder.name} | {device} | {np.abs(there - here).max():.2g} "
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


def print_speeds(name: str, device: Device, loads: Sequence[int], max_tokens: int) -> None:
    """The second table's rows for one target."""
    target = prepare(name)
    os.environ["VERIFIER_DEVICE"] = device
    for system, drafters_on in (("plain", "cpu"), ("auto", "cpu"), ("auto", device)):
        os.environ["DRAFTER_DEVICE"] = drafters_on
        with contestant(f"quorum:{system}", target, 5, "") as running:
            for load in loads:
                cell = Cell("code", 0.0, load)
                running.run(cell, max_tokens)
                run = running.run(cell, max_tokens)
                speed = len(run.outputs) * max_tokens / run.seconds
                print(
                    f"| {name} | {load} | {system} | {drafters_on} | {speed:.0f} "
                    f"| {run.acceptance:.2f} |",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--targets", default="110m,1b,7b", help="of family, 110m, 700m, 1b, 7b")
    parser.add_argument("--concurrency", default="1,8,32,64")
    parser.add_argument("--max-tokens", type=int, default=128)
    arguments = parser.parse_args()
    names = arguments.targets.split(",")
    loads = [int(load) for load in arguments.concurrency.split(",")]
    print("| target | device | largest difference to the CPU | same greedy token | rows unequal | "
          + " | ".join(f"{size} tokens, ms" for size in SIZES) + " |")  # fmt: skip
    print("|---" * (5 + len(SIZES)) + "|")
    for name in names:
        print(passes(prepare(name).exported("fp32"), arguments.device), flush=True)
    print("\n| target | at a time | way | drafters on | tokens/s | tokens a pass |")
    print("|---" * 6 + "|")
    for name in names:
        print_speeds(name, arguments.device, loads, arguments.max_tokens)


if __name__ == "__main__":
    main()
