"""Multiplication by weights in bytes, in LLVM's language: pure.

Where a CPU multiplies bytes by fours (VNNI), each row of inputs becomes bytes first, with a scale
of its own; elsewhere weights are widened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from services.drafter.vector_code import Vectors
from shared.llvm import BYTES, FLOAT, FLOATS, I8, I32, I64, Variable

PANEL = 4
"""Vectors of columns that are summed at once, whose weights lie together: as many as hide an
instruction's latency, and a line of a cache with 16 lanes."""
ROWS = {16: (6, 2, 1), 8: (3, 1)}
"""Rows that are summed at once, by a vector's lanes: as many as registers hold, or few."""
QUAD = 4
"""Inputs that an instruction multiplies and adds up."""
ZERO, STEPS = 128, 127
"""Of an input's byte: what stands for 0, and the steps to either side."""
_HEAD = 64
"""Bytes in front of a row of bytes, which begin with its scale."""
_LEAST = 1e-30


@dataclass(frozen=True, slots=True)
class LinearCode:
    """Sizes, and where what is read lies."""

    num_inputs: int
    num_columns: int
    """A multiple of a vector's lanes."""
    weights: int
    """By panels of columns; of each, one input (or four) of all columns, then the next."""
    scales: int
    """What sums are multiplied by, float32 for each column."""
    sums: int
    """What sums of bytes begin with, int32 for each column, so that `ZERO` counts for nothing."""

    @property
    def row_bytes(self) -> int:
        """Of a row of inputs as bytes."""
        return _HEAD + self.num_inputs


def linear(v: Vectors, name: str, code: LinearCode, *, adds: bool) -> ir.Function:
    """`name(weights, x, count, target, scratch)`: rows of x [count, inputs] by the weights, into
    the target [count, columns], or added to it. `scratch` has room for `row_bytes` of each row."""
    function = v.begin(name, [BYTES, FLOATS, I64, FLOATS, BYTES], "noinline")
    weights, x, count, target, scratch = function.args
    build = v.build
    if v.has_dots:
        _narrow(v, code, x, count, scratch)
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
                    source = scratch if v.has_dots else x
                    block = _Block(v, code, weights, source, row, vector, rows, panel.step)
                    block.store(target, adds)
        start = build.add(start, build.mul(num_whole, I64(rows)))
    build.ret_void()
    return function


def _narrow(v: Vectors, code: LinearCode, x: ir.Value, count: ir.Value, scratch: ir.Value) -> None:
    """All rows as bytes, each by its largest."""
    build = v.build
    integers, narrow = (ir.VectorType(kind, v.lanes) for kind in (I32, I8))
    with v.loop(I64(0), count) as row:
        largest: ir.Value = v.constant(_LEAST)
        for place in v.vectors(code.num_inputs):
            values = v.read(v.at(x, (row, code.num_inputs), (place, 1)))
            largest = v.larger(v.call(f"llvm.fabs.v{v.lanes}f32", v.kind, values), largest)
        scale = build.fdiv(v.largest(largest), FLOAT(STEPS))
        factor = v.splat(build.fdiv(FLOAT(1.0), scale), v.lanes)
        target = v.at(scratch, (row, code.row_bytes))
        build.store(scale, build.bitcast(target, FLOATS))
        for place in v.vectors(code.num_inputs):
            values = v.read(v.at(x, (row, code.num_inputs), (place, 1)))
            name = f"llvm.lrint.v{v.lanes}i32.v{v.lanes}f32"
            whole = v.call(name, integers, build.fmul(values, factor))
            shifted = build.add(whole, ir.Constant(integers, [ZERO] * v.lanes))
            v.store(build.trunc(shifted, narrow), v.at(target, (_HEAD + place, 1)), 1)


@dataclass(frozen=True, slots=True)
class _Block:
    """Some rows and vectors of columns."""

    v: Vectors
    code: LinearCode
    weights: ir.Value
    source: ir.Value
    row: ir.Value
    vector: ir.Value
    num_rows: int
    num_vectors: int

    def store(self, target: ir.Value, adds: bool) -> None:
        v, build = self.v, self.v.build
        sums = self._sums_of_bytes() if v.has_dots else self._sums()
        floats = build.bitcast(self.weights, FLOATS)
        for number, own in enumerate(sums):
            row = build.add(self.row, I64(number))
            for place, total in enumerate(own):
                vector = build.add(self.vector, I64(place))
                scales = v.read(v.at(floats, (vector, v.lanes), (self.code.scales // 4, 1)))
                values = total.get()
                if v.has_dots:
                    first = build.bitcast(v.at(self.source, (row, self.code.row_bytes)), FLOATS)
                    scales = build.fmul(scales, v.splat(build.load(first), v.lanes))
                    values = build.sitofp(values, v.kind)
                at = v.at(target, (row, self.code.num_columns), (vector, v.lanes))
                before = v.read(at) if adds else v.zeros()
                v.write(v.fused(values, scales, before), at)

    def _sums(self) -> list[list[Variable]]:
        """Of floats."""
        v, build, code = self.v, self.v.build, self.code
        sums = self._begin([v.zeros()] * self.num_vectors)
        firsts = self._rows(code.num_inputs, 0)
        with v.loop(I64(0), I64(code.num_inputs)) as number:
            line = v.at(self._panel, (number, self.num_vectors * v.lanes))
            weights = [v.widened(v.at(line, (n, v.lanes))) for n in range(self.num_vectors)]
            for first, own in zip(firsts, sums, strict=True):
                value = v.splat(build.load(build.gep(first, [number])), v.lanes)
                for total, each in zip(own, weights, strict=True):
                    total.set(v.fused(value, each, total.get()))
        return sums

    def _sums_of_bytes(self) -> list[list[Variable]]:
        v, build, code = self.v, self.v.build, self.code
        kind, size = ir.VectorType(I32, v.lanes), QUAD * v.lanes
        begin = [
            v.load(
                v.at(self.weights, (build.add(self.vector, I64(n)), size), (code.sums, 1)), kind, 4
            )
            for n in range(self.num_vectors)
        ]
        sums = self._begin(begin)
        firsts = self._rows(code.row_bytes, _HEAD)
        with v.loop(I64(0), I64(code.num_inputs // QUAD)) as number:
            line = v.at(self._panel, (number, self.num_vectors * size))
            weights = [v.load(v.at(line, (n, size)), kind, 4) for n in range(self.num_vectors)]
            for first, own in zip(firsts, sums, strict=True):
                quad = v.load(v.at(first, (number, QUAD)), I32, 4)
                values = v.splat(quad, v.lanes)
                for total, each in zip(own, weights, strict=True):
                    total.set(v.dot(total.get(), values, each))
        return sums

    def _begin(self, values: Sequence[ir.Value]) -> list[list[Variable]]:
        return [[self.v.variable(value) for value in values] for _ in range(self.num_rows)]

    def _rows(self, size: int, start: int) -> list[ir.Value]:
        """Where inputs begin."""
        rows = (self.v.build.add(self.row, I64(number)) for number in range(self.num_rows))
        return [self.v.at(self.source, (row, size), (start, 1)) for row in rows]

    @property
    def _panel(self) -> ir.Value:
        """Where its weights begin."""
        size = self.code.num_inputs * self.v.lanes
        return self.v.at(self.weights, (self.vector, size), (self.code.weights, 1))


def panels(num_vectors: int) -> list[range]:
    """Vectors of columns by panels, and by halves of them at the end."""
    parts, start, count = [], 0, PANEL
    while count:
        stop = start + (num_vectors - start) // count * count
        if stop > start:
            parts.append(range(start, stop, count))
        start, count = stop, count // 2
    return parts
