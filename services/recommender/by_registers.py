"""Sums of bytes in a CPU's vector registers, in LLVM's language: pure."""

from __future__ import annotations

from llvmlite import ir

from services.recommender.layer_block import QUAD, Block, panels
from shared.llvm import I8, I16, I32, I64, Writer

BLOCKS = {16: ((6, 4), (1, 8)), 8: ((4, 2), (1, 4))}
"""Rows and vectors of columns that are summed at once, by a vector's lanes: as many as registers
hold, and of a lone row as many as hide an instruction's latency."""


def by_registers(block: Block, num_rows: ir.Value, *, has_dots: bool, is_few: bool = False) -> None:
    """All rows, or a few of them. `has_dots`: there is an instruction for four products."""
    start: ir.Value = I64(0)
    for rows, vectors in BLOCKS[block.lanes][is_few:]:
        start = _part(block, start, num_rows, rows, vectors, has_dots)


def _part(
    block: Block, start: ir.Value, stop: ir.Value, rows: int, vectors: int, has_dots: bool
) -> ir.Value:
    """So many rows at a time, from `start`. Returns the first row that is left."""
    writer, build = block.writer, block.writer.build
    num_whole = build.udiv(build.sub(stop, start), I64(rows))
    for panel in panels(block.num_vectors, vectors):
        with (
            writer.loop(I64(panel.start), I64(panel.stop), panel.step) as vector,
            writer.loop(I64(0), num_whole) as part,
        ):
            row = build.add(start, build.mul(part, I64(rows)))
            sums = _sums(block, row, vector, rows, panel.step, has_dots)
            for number, own in enumerate(sums):
                block.finish(build.add(row, I64(number)), vector, own)
    return build.add(start, build.mul(num_whole, I64(rows)))


def _sums(
    block: Block, row: ir.Value, vector: ir.Value, rows: int, vectors: int, has_dots: bool
) -> list[list[ir.Value]]:
    """For each row the sums of so many vectors of columns."""
    writer, build = block.writer, block.writer.build
    begin = block.begin(vector, vectors)
    firsts = [block.row(build.add(row, I64(number))) for number in range(rows)]
    starts = [block.columns(build.add(vector, I64(number))) for number in range(vectors)]
    with writer.loop(I64(0), I64(block.layer.depth // QUAD)) as step:
        carried = [[build.phi(block.sums) for _ in begin] for _ in firsts]
        for phis in carried:
            for phi, value in zip(phis, begin, strict=True):
                phi.add_incoming(value, writer.entry)
        place = build.mul(step, I64(QUAD * block.lanes))
        weights = [writer.load(build.gep(own, [place]), block.sums, 4) for own in starts]
        after = []
        for first, phis in zip(firsts, carried, strict=True):
            quad = writer.load(build.gep(first, [build.mul(step, I64(QUAD))]), I32, 4)
            values = writer.splat(quad, block.lanes)
            after.append(
                [_dot(writer, *each, values, has_dots) for each in zip(phis, weights, strict=True)]
            )
        for phis, own in zip(carried, after, strict=True):
            for phi, value in zip(phis, own, strict=True):
                phi.add_incoming(value, build.block)
    return after


def _dot(
    writer: Writer, sums: ir.Value, weights: ir.Value, values: ir.Value, has_dots: bool
) -> ir.Value:
    """Unsigned bytes times signed ones, added to the sums by four; or by two in 16 bits, which do
    for weights of seven bits, and those by two."""
    build = writer.build
    if has_dots:
        name = f"llvm.x86.avx512.vpdpbusd.{32 * sums.type.count}"
        return writer.call(name, sums.type, sums, values, weights)
    byte, word = (ir.VectorType(kind, 256 // kind.width) for kind in (I8, I16))
    sides = (build.bitcast(side, byte) for side in (values, weights))
    pairs = writer.call("llvm.x86.avx2.pmadd.ub.sw", word, *sides)
    ones = ir.Constant(word, [1] * word.count)
    return build.add(sums, writer.call("llvm.x86.avx2.pmadd.wd", sums.type, pairs, ones))
