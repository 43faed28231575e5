"""Multiplication by weights in bytes, in LLVM's language: pure."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from services.drafter.vector_code import Vectors
from shared.llvm import BYTES, FLOATS, I64, Variable

PANEL = 4
"""Vectors of columns that are summed at once, whose weights lie together: as many as hide an
instruction's latency, and a line of a cache with 16 lanes."""
ROWS = {16: (6, 2, 1), 8: (3, 1)}
"""Rows that are summed at once, by a vector's lanes: as many as registers hold, or few."""


@dataclass(frozen=True, slots=True)
class LinearCode:
    """Sizes, and where weights and scales lie."""

    num_inputs: int
    num_columns: int
    """A multiple of a vector's lanes."""
    weights: int
    """By panels of columns; of each, one input of all columns, then the next."""
    scales: int


def linear(v: Vectors, name: str, code: LinearCode, *, adds: bool) -> ir.Function:
    """`name(weights, x, count, target)`: rows of x [count, inputs] by the weights, into the target
    [count, columns], or added to it."""
    function = v.begin(name, [BYTES, FLOATS, I64, FLOATS], "noinline")
    weights, x, count, target = function.args
    build = v.build
    start: ir.Value = I64(0)
    for rows in ROWS[v.lanes]:
        num_whole = build.udiv(build.sub(count, start), I64(rows))
        with build.if_then(build.icmp_signed(">", num_whole, I64(0))):
            for panel in panels(code.num_columns // v.lanes):
                with (
                    v.loop(I64(panel.start), I64(panel.stop), panel.step) as vector,
                    v.loop(I64(0), num_whole) as part,
                ):
                    row = build.add(start, build.mul(part, I64(rows)))
                    block = _Block(v, code, weights, x, row, vector, rows, panel.step)
                    block.store(target, adds)
        start = build.add(start, build.mul(num_whole, I64(rows)))
    build.ret_void()
    return function


@dataclass(frozen=True, slots=True)
class _Block:
    """Some rows and vectors of columns."""

    v: Vectors
    code: LinearCode
    weights: ir.Value
    x: ir.Value
    row: ir.Value
    vector: ir.Value
    num_rows: int
    num_vectors: int

    def store(self, target: ir.Value, adds: bool) -> None:
        v, build = self.v, self.v.build
        sums = self._sums()
        for number, own in enumerate(sums):
            row = build.add(self.row, I64(number))
            for place, total in enumerate(own):
                vector = build.add(self.vector, I64(place))
                first = self.code.scales // 4
                floats = build.bitcast(self.weights, FLOATS)
                scales = v.read(v.at(floats, (vector, v.lanes), (first, 1)))
                at = v.at(target, (row, self.code.num_columns), (vector, v.lanes))
                before = v.read(at) if adds else v.zeros()
                v.write(v.fused(total.get(), scales, before), at)

    def _sums(self) -> list[list[Variable]]:
        v, build, code = self.v, self.v.build, self.code
        sums = [[v.variable(v.zeros()) for _ in range(self.num_vectors)]
                for _ in range(self.num_rows)]  # fmt: skip
        firsts = [
            v.at(self.x, (build.add(self.row, I64(number)), code.num_inputs))
            for number in range(self.num_rows)
        ]
        start = v.at(self.weights, (self.vector, code.num_inputs * v.lanes), (code.weights, 1))
        with v.loop(I64(0), I64(code.num_inputs)) as number:
            line = v.at(start, (number, self.num_vectors * v.lanes))
            weights = [v.widened(v.at(line, (n, v.lanes))) for n in range(self.num_vectors)]
            for first, own in zip(firsts, sums, strict=True):
                value = v.splat(build.load(build.gep(first, [number])), v.lanes)
                for total, each in zip(own, weights, strict=True):
                    total.set(v.fused(value, each, total.get()))
        return sums


def panels(num_vectors: int) -> list[range]:
    """Vectors of columns by panels, and by halves of them at the end."""
    parts, start, count = [], 0, PANEL
    while count:
        stop = start + (num_vectors - start) // count * count
        if stop > start:
            parts.append(range(start, stop, count))
        start, count = stop, count // 2
    return parts
