"""Sums of bytes in AMX' tiles, in LLVM's language: pure.

A tile is 16 rows of 64 bytes. Tiles 0 to 3 hold sums, 4 and 5 rows of activations, 6 and 7 weights,
whose order in memory is that of a tile.
"""

from __future__ import annotations

from llvmlite import ir

from services.recommender.layer_block import LINE, Block, panels
from shared.llvm import BYTES, I8, I64, VOID, Writer

TILE_ROWS = 16


def set_tiles(writer: Writer) -> None:
    """Shapes of all eight: palette 1, with the bytes of a row from byte 16 of the configuration on
    and the rows from byte 48 on."""
    config = bytearray(LINE)
    config[0] = 1
    config[16:32:2] = bytes([LINE] * 8)
    config[48:56] = bytes([TILE_ROWS] * 8)
    constant = ir.GlobalVariable(writer.module, ir.ArrayType(I8, LINE), "tiles")
    constant.initializer = ir.Constant(constant.value_type, config)
    constant.global_constant = True
    constant.linkage = "internal"
    writer.call("llvm.x86.ldtilecfg", VOID, writer.build.bitcast(constant, BYTES))


def release_tiles(writer: Writer) -> None:
    """So that the system has nothing to keep for this thread."""
    writer.call("llvm.x86.tilerelease", VOID)


def by_tiles(block: Block, num_rows: ir.Value) -> None:
    """Two tiles of rows at a time, then one, by two of columns. The last one is whole: a buffer has
    rows for it."""
    writer, build = block.writer, block.writer.build
    sums = build.alloca(I8, 4 * TILE_ROWS * LINE)
    sums.align = LINE
    once = build.and_(build.add(num_rows, I64(TILE_ROWS - 1)), I64(-TILE_ROWS))
    twice = build.and_(once, I64(-2 * TILE_ROWS))
    for panel in panels(block.num_vectors, 2):
        with writer.loop(I64(panel.start), I64(panel.stop), panel.step) as vector:
            for start, stop, down in ((I64(0), twice, 2), (twice, once, 1)):
                with writer.loop(start, stop, down * TILE_ROWS) as row:
                    _multiply(block, row, vector, down, panel.step, sums)
                    _finish(block, row, vector, down, panel.step, sums)


def _multiply(
    block: Block, row: ir.Value, vector: ir.Value, down: int, across: int, sums: ir.Value
) -> None:
    """So many tiles of rows by so many of columns, to `sums` [rows, columns]."""
    writer, build, stride = block.writer, block.writer.build, block.layer.stride
    pairs = [(d, a) for d in range(down) for a in range(across)]
    for d, a in pairs:
        writer.call("llvm.x86.tilezero", VOID, I8(2 * d + a))
    source, weights = block.row(row), block.columns(vector)
    with writer.loop(I64(0), I64(block.layer.depth), LINE) as place:
        for d in range(down):
            at = build.gep(source, [build.add(place, I64(d * TILE_ROWS * stride))])
            # Weights are read again and are to stay in the first cache: rows go past it.
            writer.call("llvm.x86.tileloaddt164", VOID, I8(4 + d), at, I64(stride))
        for a in range(across):
            further = build.add(build.mul(place, I64(TILE_ROWS)), I64(a * block.vector_bytes))
            at = build.gep(weights, [further])
            writer.call("llvm.x86.tileloadd64", VOID, I8(6 + a), at, I64(LINE))
        for d, a in pairs:
            writer.call("llvm.x86.tdpbusd", VOID, I8(2 * d + a), I8(4 + d), I8(6 + a))
    for d, a in pairs:
        at = build.gep(sums, [I64((d * TILE_ROWS * across + a) * LINE)])
        writer.call("llvm.x86.tilestored64", VOID, I8(2 * d + a), at, I64(across * LINE))


def _finish(
    block: Block, row: ir.Value, vector: ir.Value, down: int, across: int, sums: ir.Value
) -> None:
    writer, build = block.writer, block.writer.build
    begin = block.begin(vector, across)
    with writer.loop(I64(0), I64(down * TILE_ROWS)) as number:
        first = build.gep(sums, [build.mul(number, I64(across * LINE))])
        products = [
            writer.load(build.gep(first, [I64(a * LINE)]), block.sums, LINE) for a in range(across)
        ]
        own = [build.add(*each) for each in zip(products, begin, strict=True)]
        block.finish(build.add(row, number), vector, own)
