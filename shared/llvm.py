"""What all functions in LLVM's language are written with: pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llvmlite import ir

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
FLOAT, HALF, VOID = ir.FloatType(), ir.HalfType(), ir.VoidType()
BYTES, LONGS = I8.as_pointer(), I64.as_pointer()
FLOATS, HALVES = FLOAT.as_pointer(), HALF.as_pointer()


class Variable:
    """A value that changes; LLVM keeps it in a register."""

    def __init__(self, writer: Writer, value: ir.Value) -> None:
        self._writer = writer
        with writer.build.goto_entry_block():
            self._place = writer.build.alloca(value.type)
        self.set(value)

    def get(self) -> ir.Value:
        return self._writer.build.load(self._place)

    def set(self, value: ir.Value) -> None:
        self._writer.build.store(value, self._place)


class Writer:
    """Writes the functions of a module, one after the other."""

    build: ir.IRBuilder
    """Where the function at hand goes on."""
    entry: ir.Block
    """What the body of the innermost loop is entered from."""

    def __init__(self, name: str, triple: str) -> None:
        self.module = ir.Module(name)
        self.module.triple = triple

    def begin(self, name: str, kinds: Sequence[ir.Type], *hints: str) -> ir.Function:
        """A function that returns nothing. With hints (attributes) it is the module's own."""
        function = ir.Function(self.module, ir.FunctionType(VOID, kinds), name)
        for hint in hints:
            function.linkage = "internal"
            function.attributes.add(hint)
        self.build = ir.IRBuilder(function.append_basic_block())
        return function

    def call(self, name: str, kind: ir.Type, *values: ir.Value) -> ir.Value:
        """An instruction that LLVM or the CPU has under a name of its own."""
        function = self.module.globals.get(name)
        if function is None:
            takes = ir.FunctionType(kind, [value.type for value in values])
            function = ir.Function(self.module, takes, name)
        return self.build.call(function, values)

    def at(self, start: ir.Value, *steps: tuple[ir.Value | int, int]) -> ir.Value:
        """A place some steps behind another: of each so many, of so many entries."""
        place: ir.Value = I64(0)
        for count, size in steps:
            factor = I64(count) if isinstance(count, int) else count
            place = self.build.add(place, self.build.mul(factor, I64(size)))
        return self.build.gep(start, [place])

    def load(self, source: ir.Value, kind: ir.Type, align: int) -> ir.Value:
        return self.build.load(self.build.bitcast(source, kind.as_pointer()), align=align)

    def store(self, values: ir.Value, target: ir.Value, align: int) -> None:
        at = self.build.bitcast(target, values.type.as_pointer())
        self.build.store(values, at, align=align)

    def splat(self, value: ir.Value, length: int) -> ir.Value:
        """A vector of the same value."""
        kind = ir.VectorType(value.type, length)
        none = ir.Constant(kind, ir.Undefined)
        one = self.build.insert_element(none, value, I32(0))
        zeros = ir.Constant(ir.VectorType(I32, length), [0] * length)
        return self.build.shuffle_vector(one, none, zeros)

    @contextmanager
    def loop(self, start: ir.Value, stop: ir.Value, step: int = 1) -> Iterator[ir.Value]:
        """Counts from `start` to below `stop`; between constants at least once, so that what the
        body brings is there afterwards."""
        build = self.build
        before = build.block
        body = build.append_basic_block("body")
        after = build.append_basic_block("after")
        if isinstance(start, ir.Constant) and isinstance(stop, ir.Constant):
            build.branch(body)
        else:
            build.cbranch(build.icmp_signed("<", start, stop), body, after)
        build.position_at_end(body)
        self.entry = before
        index = build.phi(I64)
        index.add_incoming(start, before)
        yield index
        following = build.add(index, I64(step))
        index.add_incoming(following, build.block)
        build.cbranch(build.icmp_signed("<", following, stop), body, after)
        build.position_at_end(after)
