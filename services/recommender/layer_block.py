"""What the function of a layer in int8 works on, in LLVM's language, and how its sums end: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from shared.llvm import FLOAT, I8, I32, I64, Writer

LINE = 64
"""Bytes: rows of activations are padded to it, a tile's row is as long."""
QUAD = 4
"""Inputs that an instruction multiplies and adds up for each sum, and bytes of a sum."""


@dataclass(frozen=True, slots=True)
class LayerCode:
    """Sizes of a layer, and where what it reads lies, in bytes from the start of all weights."""

    num_inputs: int
    num_outputs: int
    weights: int
    """By vectors of columns; of each, four inputs of all columns, then the next four."""
    sums: int
    """What products are added to, int32 for each column."""
    factors: int
    """What sums are multiplied by, float32 for each column."""
    zero_point: int | None
    """Of the bytes that it writes; None: scores."""

    @property
    def depth(self) -> int:
        """Inputs, with those that pad a line; their weights are zeros."""
        return -(-self.num_inputs // LINE) * LINE

    @property
    def stride(self) -> int:
        """Bytes from a row that it reads to the next: an odd number of lines, so that those of
        several rows do not meet in one set of the cache."""
        return (self.depth // LINE | 1) * LINE


@dataclass(frozen=True, slots=True)
class Block:
    """A layer, and the arguments of its function."""

    writer: Writer
    lanes: int
    """Columns of a vector of sums."""
    layer: LayerCode
    weights: ir.Value
    source: ir.Value
    target: ir.Value
    stride: int
    """Bytes of a row of the target."""

    @property
    def num_vectors(self) -> int:
        return -(-self.layer.num_outputs // self.lanes)

    @property
    def vector_bytes(self) -> int:
        """Weights of a vector of columns."""
        return self.layer.depth * self.lanes

    @property
    def sums(self) -> ir.VectorType:
        return ir.VectorType(I32, self.lanes)

    def row(self, number: ir.Value) -> ir.Value:
        """Where a row that is read begins."""
        build = self.writer.build
        return build.gep(self.source, [build.mul(number, I64(self.layer.stride))])

    def columns(self, vector: ir.Value) -> ir.Value:
        """Where the weights of a vector of columns begin."""
        build = self.writer.build
        place = build.add(I64(self.layer.weights), build.mul(vector, I64(self.vector_bytes)))
        return build.gep(self.weights, [place])

    def begin(self, vector: ir.Value, count: int) -> list[ir.Value]:
        """What products are added to, of so many vectors of columns."""
        return [self._each(self.layer.sums, vector, place, self.sums) for place in range(count)]

    def finish(self, row: ir.Value, vector: ir.Value, sums: Sequence[ir.Value]) -> None:
        """Sums of a row become what the next layer reads, or scores."""
        build, kind = self.writer.build, ir.VectorType(FLOAT, self.lanes)
        first = build.gep(self.target, [build.mul(row, I64(self.stride))])
        zero_point = self.layer.zero_point
        size = 4 if zero_point is None else 1
        for place, own in enumerate(sums):
            factors = self._each(self.layer.factors, vector, place, kind)
            values = build.fmul(build.sitofp(own, kind), factors)
            if zero_point is not None:
                values = to_bytes(self.writer, values, zero_point)
            further = build.mul(build.add(vector, I64(place)), I64(size * self.lanes))
            self.writer.store(values, build.gep(first, [further]), size)

    def _each(self, start: int, vector: ir.Value, place: int, kind: ir.Type) -> ir.Value:
        """Four bytes for each column of a vector some places on."""
        build = self.writer.build
        further = build.mul(build.add(vector, I64(place)), I64(QUAD * self.lanes))
        at = build.gep(self.weights, [build.add(I64(start), further)])
        return self.writer.load(at, kind, LINE)


def to_bytes(writer: Writer, values: ir.Value, zero_point: int) -> ir.Value:
    """Of floats that are scaled already, rounded to even. What is no number becomes the least."""
    build, kind = writer.build, values.type
    wide, narrow = (ir.VectorType(each, kind.count) for each in (I32, I8))
    for limit, order in ((-zero_point, ">"), (255 - zero_point, "<")):
        bound = ir.Constant(kind, [float(limit)] * kind.count)
        values = build.select(build.fcmp_ordered(order, values, bound), values, bound)
    whole = writer.call(f"llvm.lrint.v{kind.count}i32.v{kind.count}f32", wide, values)
    return build.trunc(build.add(whole, ir.Constant(wide, [zero_point] * kind.count)), narrow)


def panels(num_vectors: int, count: int) -> list[range]:
    """Vectors of columns by so many, then one by one."""
    whole = num_vectors // count * count
    return [part for part in (range(0, whole, count), range(whole, num_vectors)) if part]
