"""python -m benchmarks.products: the most products of bytes a second that this processor makes.

A loop of nothing but the instruction that multiplies bytes and adds them up, on registers alone, on
one core and on each of two at a time. A dense graph in int8 cannot be faster than its products
are, whoever computes it: the paper's small model takes 1.02 million of them an item.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llvmlite import binding

from shared.jit import compiled

NUM_SUMS = 12
"""Independent sums: enough to hide how long one instruction takes."""
ROUNDS = 20_000_000
REPEATS = 5
PER_ITEM = 352 * 1024 + 1024 * 512 + 512 * 256 + 256
"""Of the paper's small model (layers of 1024, 512 and 256)."""
KINDS = {
    "avx512_vnni": ("<16 x i32>", 64, "vpdpbusd $2, $1, $0"),
    "avx_vnni": ("<8 x i32>", 32, "{vex} vpdpbusd $2, $1, $0"),
}
"""By the processor's flag: a register, the products of one instruction, and the instruction."""


def kind_of(flags: set[str]) -> str | None:
    """The widest instruction that the processor has."""
    return next((kind for kind in KINDS if kind in flags), None)


def loop(kind: str) -> str:
    """A function `run` of the number of rounds, in LLVM's language. Its sums are handed to one
    another at the end, so that none is left out."""
    register, _, instruction = KINDS[kind]
    numbers = range(NUM_SUMS)
    phis = "\n".join(
        f"  %s{n} = phi {register} [ zeroinitializer, %entry ], [ %t{n}, %loop ]" for n in numbers
    )
    steps = "\n".join(
        f'  %t{n} = call {register} asm sideeffect "{instruction}", "=v,v,v,0"'
        f"({register} zeroinitializer, {register} zeroinitializer, {register} %s{n})"
        for n in numbers
    )
    return f"""
define i32 @run(i64 %rounds) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{phis}
{steps}
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %rounds
  br i1 %more, label %loop, label %end
end:
  %result = extractelement {register} %t0, i32 0
  ret i32 %result
}}
"""


def main() -> None:
    """The command."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    flags = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
    kind = kind_of(flags)
    if kind is None:
        print(f"this processor has none of {', '.join(KINDS)}")
        return
    binding.initialize_native_asmparser()
    engine = compiled(loop(kind))
    run = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64)(engine.get_function_address("run"))
    num_products = ROUNDS * NUM_SUMS * KINDS[kind][1]
    for num_cores in (1, 2):
        with ThreadPoolExecutor(num_cores) as pool:
            rates = []
            for _ in range(REPEATS):
                started = time.perf_counter()
                list(pool.map(run, [ROUNDS] * num_cores))
                rates.append(num_products * num_cores / (time.perf_counter() - started))
        rate = statistics.median(rates)
        print(
            f"{kind}, {num_cores} cores: {rate / 1e9:.0f} thousand million products a second "
            f"({min(rates) / 1e9:.0f} to {max(rates) / 1e9:.0f}): "
            f"{rate / PER_ITEM:,.0f} items of the paper's small model"
        )


if __name__ == "__main__":
    main()
