"""Which row an id reads, in LLVM's language: pure."""

from __future__ import annotations

from llvmlite import ir

from services.recommender.program import ORDER_BYTES, Column

_I32, _I64 = ir.IntType(32), ir.IntType(64)
MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
"""Multipliers of splitmix64, by whose upper bits an id's hash finds a row."""


def known(build: ir.IRBuilder, name: ir.Value, column: Column) -> tuple[ir.Value, ir.Value]:
    """The id of the table that is read for any id, and whether that one is outside of it."""
    is_outside = build.icmp_unsigned(">=", name, _I64(column.num_rows))
    instead: ir.Value = _I64(column.default_row if column.fallback == "default" else 0)
    if column.fallback == "hash":
        mixed = name
        for shift, factor in zip((30, 27), MIX, strict=True):
            mixed = build.mul(build.xor(mixed, build.lshr(mixed, _I64(shift))), _I64(factor))
        upper = build.lshr(build.xor(mixed, build.lshr(mixed, _I64(31))), _I64(32))
        instead = build.lshr(build.mul(upper, _I64(column.num_rows)), _I64(32))
    return build.select(is_outside, instead, name), is_outside


def order_entry(build: ir.IRBuilder, arena: ir.Value, name: ir.Value, column: Column) -> ir.Value:
    """Where the row of an id of the table is said; the column must have an order."""
    assert column.order is not None
    place = build.mul(name, _I64(ORDER_BYTES))
    return build.gep(arena, [build.add(_I64(column.order), place)])


def row_of(build: ir.IRBuilder, arena: ir.Value, name: ir.Value, column: Column) -> ir.Value:
    """The row of an id of the table."""
    if column.order is None:
        return name
    entry = order_entry(build, arena, name, column)
    row = build.load(build.bitcast(entry, _I32.as_pointer()), align=ORDER_BYTES)
    return build.zext(row, _I64)
