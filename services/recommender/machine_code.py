"""A program's gather in LLVM's language: pure.

One loop over the items: the addresses of an item some way ahead are worked out, kept in a ring and
prefetched; then the item at hand is copied, whose rows have arrived meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llvmlite import ir

from services.recommender.program import (
    SCALE_BYTES,
    Access,
    Bag,
    Column,
    Program,
    Read,
    vector_bytes,
)
from services.recommender.row_code import known, order_entry, row_of
from shared.llvm import (
    BYTES,
    FLOAT,
    FLOATS,
    HALF,
    I1,
    I8,
    I32,
    I64,
    LONGS,
    VOID,
    Writer,
)

LINE = 64
LONGEST_VECTOR = 16
RING = 16
"""Items whose addresses are known, of which up to this many less one are prefetched."""
BAG_DISTANCE = 8
"""In ids of a bag, and of the bags behind it."""

PREFETCH = (I32(0), I32(2), I32(1))
"""To read, into the second cache, of data. The first one holds too little of what is ahead: with it
the paper's small model took half as long again."""
_PREFETCH = "llvm.prefetch.p0", VOID


def write(program: Program, distance: int, triple: str) -> str:
    """`gather(arena, ids, num_items, outputs, missing)`, and for each bag
    `pool0(arena, ids, bounds, num_bags, targets, strides, missing)`, `pool1` and so on."""
    return str(_Writer(program, distance, triple).written())


class _Writer(Writer):
    """Writes the program in LLVM's language."""

    def __init__(self, program: Program, distance: int, triple: str) -> None:
        super().__init__("gather", triple)
        self._program = program
        self._distance = distance

    def written(self) -> ir.Module:
        """One function, `gather(arena, ids, num_items, outputs, missing)`, and those of bags."""
        mend = self._mend()
        num_columns, num_accesses = len(self._program.columns), len(self._program.accesses)
        function = self.begin("gather", [BYTES, LONGS, I64, FLOATS.as_pointer(), LONGS])
        arena, ids, num_items, outputs, missing = function.args
        build = self.build
        ring = build.alloca(I64, RING * max(num_accesses, 1))
        wrong = build.alloca(I1, RING)
        starts = [
            build.load(build.gep(outputs, [I64(k)])) for k in range(len(self._program.widths))
        ]
        # Orders are prefetched before rows are, since those say which.
        lead = self._distance * any(c.order is not None for c in self._program.columns)
        num_steps = build.add(num_items, I64(lead + self._distance))
        with self.loop(I64(0), num_steps) as step:
            if lead:
                with build.if_then(build.icmp_signed("<", step, num_items)):
                    own = build.gep(ids, [build.mul(step, I64(num_columns))])
                    self._prefetch_orders(arena, own)
            item = build.sub(step, I64(lead))
            is_there = build.and_(
                build.icmp_signed(">=", item, I64(0)), build.icmp_signed("<", item, num_items)
            )
            with build.if_then(is_there):
                slot = build.and_(item, I64(RING - 1))
                places = build.gep(ring, [build.mul(slot, I64(num_accesses))])
                own = build.gep(ids, [build.mul(item, I64(num_columns))])
                is_wrong = self._locate(arena, own, places)
                build.store(is_wrong, build.gep(wrong, [slot]))
            item = build.sub(step, I64(lead + self._distance))
            with build.if_then(build.icmp_signed(">=", item, I64(0))):
                slot = build.and_(item, I64(RING - 1))
                places = build.gep(ring, [build.mul(slot, I64(num_accesses))])
                rows = [
                    build.gep(start, [build.mul(item, I64(width))])
                    for start, width in zip(starts, self._program.widths, strict=True)
                ]
                self._copy(arena, places, rows)
                with build.if_then(build.load(build.gep(wrong, [slot])), likely=False):
                    own = build.gep(ids, [build.mul(item, I64(num_columns))])
                    build.call(mend, [own, item, outputs, missing])
        build.ret_void()
        for number, bag in enumerate(self._program.bags):
            self._pool(f"pool{number}", bag)
        return self.module

    def _pool(self, name: str, bag: Bag) -> None:
        """A function `name(arena, ids, bounds, num_bags, targets, strides, missing)`."""
        kinds = [BYTES, LONGS, LONGS, I64, FLOATS.as_pointer(), LONGS, LONGS]
        function = self.begin(name, kinds)
        arena, ids, bounds, num_bags, targets, strides, missing = function.args
        build = self.build
        access, reads = bag.access, bag.access.reads
        total = build.load(build.gep(bounds, [num_bags]))
        starts = [build.load(build.gep(targets, [I64(k)])) for k in range(len(reads))]
        widths = [build.load(build.gep(strides, [I64(k)])) for k in range(len(reads))]

        def find(index: ir.Value) -> tuple[ir.Value, ir.Value]:
            name, is_outside = known(build, build.load(build.gep(ids, [index])), bag.column)
            row = row_of(build, arena, name, bag.column)
            place = build.add(I64(access.base), build.mul(row, I64(access.stride)))
            return build.gep(arena, [place]), is_outside

        with self.loop(I64(0), num_bags) as number:
            first = build.load(build.gep(bounds, [number]))
            stop = build.load(build.gep(bounds, [build.add(number, I64(1))]))
            rows = [
                build.gep(start, [build.mul(number, width)])
                for start, width in zip(starts, widths, strict=True)
            ]
            for read, row in zip(reads, rows, strict=True):
                for place, length in _vectors(read.dim):
                    kind = ir.VectorType(FLOAT, length)
                    self.store(ir.Constant(kind, [0.0] * length), build.gep(row, [I64(place)]), 4)
            with self.loop(first, stop) as index:
                if bag.column.order is not None:
                    further = build.add(index, I64(2 * BAG_DISTANCE))
                    with build.if_then(build.icmp_signed("<", further, total)):
                        own = build.load(build.gep(ids, [further]))
                        self._prefetch_order(arena, own, bag.column)
                ahead = build.add(index, I64(BAG_DISTANCE))
                with build.if_then(build.icmp_signed("<", ahead, total)):
                    self._prefetch_lines(access, find(ahead)[0])
                source, is_outside = find(index)
                with build.if_then(is_outside, likely=False):
                    build.store(build.add(build.load(missing), I64(1)), missing)
                counts = build.not_(is_outside) if bag.column.fallback == "zero" else I1(1)
                with build.if_then(counts):
                    self._add(access, source, rows)
            if bag.is_mean:
                number_of = build.sub(stop, first)
                is_empty = build.icmp_signed("<", number_of, I64(1))
                divisor = build.sitofp(build.select(is_empty, I64(1), number_of), FLOAT)
                self._divide(access, rows, divisor)
        build.ret_void()

    def _add(self, access: Access, source: ir.Value, rows: Sequence[ir.Value]) -> None:
        build = self.build
        for read, row in zip(access.reads, rows, strict=True):
            start = build.gep(source, [I64(read.offset)])
            for place, values in self._vectors_of(access, read, start):
                so_far = self.load(build.gep(row, [I64(place)]), values.type, 4)
                self.store(build.fadd(so_far, values), build.gep(row, [I64(place)]), 4)

    def _divide(self, access: Access, rows: Sequence[ir.Value], divisor: ir.Value) -> None:
        build = self.build
        for read, row in zip(access.reads, rows, strict=True):
            for place, length in _vectors(read.dim):
                kind = ir.VectorType(FLOAT, length)
                values = self.load(build.gep(row, [I64(place)]), kind, 4)
                self.store(
                    build.fdiv(values, self.splat(divisor, length)), build.gep(row, [I64(place)]), 4
                )

    def _locate(self, arena: ir.Value, ids: ir.Value, places: ir.Value) -> ir.Value:
        """Stores and prefetches an item's addresses; whether any id is outside of its table."""
        build = self.build
        rows, is_wrong = [], I1(0)
        for number, column in enumerate(self._program.columns):
            name, is_outside = known(build, build.load(build.gep(ids, [I64(number)])), column)
            rows.append(row_of(build, arena, name, column))
            is_wrong = build.or_(is_wrong, is_outside)
        for number, access in enumerate(self._program.accesses):
            place = I64(access.base)
            for own, radix in access.radices.items():
                place = build.add(place, build.mul(rows[own], I64(radix * access.stride)))
            build.store(place, build.gep(places, [I64(number)]))
            if self._distance:
                self._prefetch_lines(access, build.gep(arena, [place]))
        return is_wrong

    def _prefetch_lines(self, access: Access, row: ir.Value) -> None:
        for first in _lines(access):
            line = self.build.gep(row, [I64(first)])
            self.call(*_PREFETCH, line, *PREFETCH)

    def _prefetch_orders(self, arena: ir.Value, ids: ir.Value) -> None:
        """Those of an item."""
        for number, column in enumerate(self._program.columns):
            if column.order is not None:
                name = self.build.load(self.build.gep(ids, [I64(number)]))
                self._prefetch_order(arena, name, column)

    def _prefetch_order(self, arena: ir.Value, name: ir.Value, column: Column) -> None:
        place = order_entry(self.build, arena, known(self.build, name, column)[0], column)
        self.call(*_PREFETCH, place, *PREFETCH)

    def _copy(self, arena: ir.Value, places: ir.Value, rows: Sequence[ir.Value]) -> None:
        """An item's vectors to its rows of the outputs."""
        build = self.build
        for number, access in enumerate(self._program.accesses):
            row = build.gep(arena, [build.load(build.gep(places, [I64(number)]))])
            for read in access.reads:
                source = build.gep(row, [I64(read.offset)])
                target = build.gep(rows[read.output], [I64(read.place)])
                for place, values in self._vectors_of(access, read, source):
                    self.store(values, build.gep(target, [I64(place)]), 4)

    def _vectors_of(
        self, access: Access, read: Read, source: ir.Value
    ) -> Iterator[tuple[int, ir.Value]]:
        """A stored vector as float32, piece by piece, each with its place."""
        build = self.build
        scale = None
        if access.element == "int8":
            scale = self.load(source, FLOAT, SCALE_BYTES)
            source = build.gep(source, [I64(SCALE_BYTES)])
        stored, size = {"fp32": (FLOAT, 4), "fp16": (HALF, 2), "int8": (I8, 1)}[access.element]
        for first, length in _vectors(read.dim):
            place = build.gep(source, [I64(first * size)])
            values = self.load(place, ir.VectorType(stored, length), size)
            wide = ir.VectorType(FLOAT, length)
            if access.element == "fp16":
                values = build.fpext(values, wide)
            elif scale is not None:
                values = build.fmul(build.sitofp(values, wide), self.splat(scale, length))
            yield first, values

    def _mend(self) -> ir.Function:
        """A function for an item with ids outside of their tables: counts them, and makes zeros
        of the vectors that are to be zeros. Such items are few, so it is apart."""
        kinds = [LONGS, I64, FLOATS.as_pointer(), LONGS]
        function = self.begin("mend", kinds, "noinline", "cold")
        ids, item, outputs, missing = function.args
        build = self.build
        reads = [read for access in self._program.accesses for read in access.reads]
        for number, column in enumerate(self._program.columns):
            name = build.load(build.gep(ids, [I64(number)]))
            with build.if_then(build.icmp_unsigned(">=", name, I64(column.num_rows))):
                count = build.gep(missing, [I64(number)])
                build.store(build.add(build.load(count), I64(1)), count)
                if column.fallback != "zero":
                    continue
                for read in (r for r in reads if r.column == number):
                    start = build.load(build.gep(outputs, [I64(read.output)]))
                    width = self._program.widths[read.output]
                    first = build.add(build.mul(item, I64(width)), I64(read.place))
                    for value in range(read.dim):
                        build.store(
                            ir.Constant(FLOAT, 0.0),
                            build.gep(start, [build.add(first, I64(value))]),
                        )
        build.ret_void()
        return function


def _lines(access: Access) -> list[int]:
    """From where in a row to prefetch, so that each cache line of it is."""
    size = max(r.offset + vector_bytes(r.dim, access.element) for r in access.reads)
    firsts = list(range(0, size, LINE))
    is_aligned = access.base % LINE == 0 and (
        access.stride % LINE == 0 or LINE % access.stride == 0
    )
    return firsts if is_aligned else [*firsts, size - 1]


def _vectors(dim: int) -> Iterator[tuple[int, int]]:
    """Places and lengths, powers of two, that make up a vector."""
    first, length = 0, LONGEST_VECTOR
    while first < dim:
        while length > dim - first:
            length //= 2
        yield first, length
        first += length
