"""Arithmetic with vectors of float32 in LLVM's language: pure."""

from __future__ import annotations

from math import log

from llvmlite import ir

from shared.llvm import FLOAT, HALF, I8, I32, Variable, Writer

_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
"""ln 2 in two parts, of which the first has few bits (Cody and Waite)."""
_TERMS = (1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0)
"""Of the exponential's series: enough for float32 between -ln 2 / 2 and ln 2 / 2."""
_LOWEST, _HIGHEST = -87.0, 88.0
"""Beyond them float32 ends."""


class Vectors(Writer):
    """A Writer for vectors of `lanes` numbers."""

    def __init__(self, name: str, triple: str, lanes: int, *, has_dots: bool) -> None:
        """`has_dots`: the CPU has an instruction that multiplies bytes by fours."""
        super().__init__(name, triple)
        self.lanes = lanes
        self.has_dots = has_dots
        self.kind = ir.VectorType(FLOAT, lanes)

    def variable(self, value: ir.Value) -> Variable:
        return Variable(self, value)

    def vectors(self, count: int) -> range:
        """Where the vectors of so many numbers begin, which are a multiple of the lanes."""
        return range(0, count, self.lanes)

    def constant(self, value: float) -> ir.Constant:
        return ir.Constant(self.kind, [value] * self.lanes)

    def zeros(self) -> ir.Constant:
        return self.constant(0.0)

    def read(self, place: ir.Value) -> ir.Value:
        return self.load(place, self.kind, 4)

    def write(self, values: ir.Value, place: ir.Value) -> None:
        self.store(values, place, 4)

    def widened(self, place: ir.Value) -> ir.Value:
        """Bytes as floats."""
        narrow, wide = (ir.VectorType(kind, self.lanes) for kind in (I8, I32))
        return self.build.sitofp(self.build.sext(self.load(place, narrow, 1), wide), self.kind)

    def halves(self, place: ir.Value) -> ir.Value:
        """Numbers of 16 bits as floats."""
        return self.build.fpext(self.load(place, ir.VectorType(HALF, self.lanes), 2), self.kind)

    def dot(self, sums: ir.Value, values: ir.Value, weights: ir.Value) -> ir.Value:
        """Unsigned bytes times signed ones, added to the sums by fours."""
        name = f"llvm.x86.avx512.vpdpbusd.{32 * self.lanes}"
        return self.call(name, sums.type, sums, values, weights)

    def fused(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a x b + c"""
        return self.call(f"llvm.fmuladd.v{self.lanes}f32", self.kind, a, b, c)

    def larger(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.build.select(self.build.fcmp_ordered(">", a, b), a, b)

    def smaller(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.build.select(self.build.fcmp_ordered("<", a, b), a, b)

    def sum(self, values: ir.Value) -> ir.Value:
        return self._folded(values, self.build.fadd)

    def largest(self, values: ir.Value) -> ir.Value:
        return self._folded(values, self.larger)

    def _folded(self, values: ir.Value, join: object) -> ir.Value:
        """By halves, down to one number."""
        build, length = self.build, self.lanes
        while length > 1:
            length //= 2
            none = ir.Constant(values.type, ir.Undefined)
            halves = [
                build.shuffle_vector(
                    values, none, ir.Constant(ir.VectorType(I32, length), list(part))
                )
                for part in (range(length), range(length, 2 * length))
            ]
            assert callable(join)
            values = join(*halves)
        return build.extract_element(values, I32(0))


def exponential(v: Vectors, values: ir.Value) -> ir.Value:
    """e to the power of each, to float32's precision."""
    build = v.build
    values = v.smaller(v.larger(values, v.constant(_LOWEST)), v.constant(_HIGHEST))
    power = build.fmul(values, v.constant(1 / log(2)))
    whole = v.call(f"llvm.rint.v{v.lanes}f32", v.kind, power)
    rest = v.fused(whole, v.constant(-_LN2_HIGH), values)
    rest = v.fused(whole, v.constant(-_LN2_LOW), rest)
    result: ir.Value = v.constant(_TERMS[0])
    for term in _TERMS[1:]:
        result = v.fused(result, rest, v.constant(term))
    integers = ir.VectorType(I32, v.lanes)
    exponent = build.add(build.fptosi(whole, integers), ir.Constant(integers, [127] * v.lanes))
    scale = build.shl(exponent, ir.Constant(integers, [23] * v.lanes))
    return build.fmul(result, build.bitcast(scale, v.kind))
