"""Layers in int8 in LLVM's language: pure.

One function for the whole graph. Sums become the next layer's bytes while they are at hand, which
takes as long as the products where it is done apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from llvmlite import ir

from services.recommender.by_registers import by_registers
from services.recommender.by_tiles import by_tiles, release_tiles, set_tiles
from services.recommender.layer_block import Block, LayerCode, to_bytes
from shared.llvm import BYTES, FLOAT, FLOATS, I64, Writer

Instructions = Literal["amx", "vnni", "avx-vnni", "avx2"]
LANES: dict[Instructions, int] = {"amx": 16, "vnni": 16, "avx-vnni": 8, "avx2": 8}
"""Sums of a vector."""
FEWEST_TILED = 3
"""Rows: fewer are faster one by one."""


def row_bytes(layers: Sequence[LayerCode], lanes: int) -> list[int]:
    """What of a thread's buffer each row takes: what each layer reads, and its scores. All rows of
    the one lie before those of the next."""
    scores = -(-layers[-1].num_outputs // lanes) * lanes
    return [*(layer.stride for layer in layers), 4 * scores]


def write(
    layers: Sequence[LayerCode],
    scale: float,
    zero_point: int,
    instructions: Instructions,
    triple: str,
) -> str:
    """`score(weights, inputs, num_rows, buffer, max_rows)`, of float32 inputs [num_rows,
    num_inputs], which become bytes by `scale` and `zero_point`. `buffer` has `row_bytes` for each
    of `max_rows`, which are whole tiles."""
    writer, lanes = Writer("layers", triple), LANES[instructions]
    sizes = row_bytes(layers, lanes)
    functions = [
        _layer(writer, f"layer{number}", layer, stride, instructions)
        for number, (layer, stride) in enumerate(zip(layers, sizes[1:], strict=True))
    ]
    function = writer.begin("score", [BYTES, FLOATS, I64, BYTES, I64])
    weights, inputs, num_rows, buffer, max_rows = function.args
    build = writer.build
    with writer.loop(I64(0), num_rows) as row:
        source = build.gep(inputs, [build.mul(row, I64(layers[0].num_inputs))])
        target = build.gep(buffer, [build.mul(row, I64(layers[0].stride))])
        _read(writer, layers[0].num_inputs, lanes, source, target, scale, zero_point)
    if instructions == "amx":
        with build.if_then(build.not_(_are_few(build, num_rows))):
            set_tiles(writer)
    source = buffer
    for own, size in zip(functions, sizes, strict=False):
        target = build.gep(source, [build.mul(max_rows, I64(size))])
        build.call(own, [weights, source, target, num_rows])
        source = target
    if instructions == "amx":
        with build.if_then(build.not_(_are_few(build, num_rows))):
            release_tiles(writer)
    build.ret_void()
    return str(writer.module)


def _read(
    writer: Writer, count: int, lanes: int, source: ir.Value, target: ir.Value, scale: float,
    zero_point: int,
) -> None:  # fmt: skip
    """Floats of a row, as bytes."""
    build = writer.build
    place, length = 0, lanes
    while place < count:
        while length > count - place:
            length //= 2
        kind = ir.VectorType(FLOAT, length)
        values = writer.load(build.gep(source, [I64(place)]), kind, 4)
        values = build.fdiv(values, ir.Constant(kind, [scale] * length))
        writer.store(to_bytes(writer, values, zero_point), build.gep(target, [I64(place)]), 1)
        place += length


def _layer(
    writer: Writer, name: str, layer: LayerCode, stride: int, instructions: Instructions
) -> ir.Function:
    """A function `name(weights, source, target, num_rows)`."""
    function = writer.begin(name, [BYTES, BYTES, BYTES, I64], "noinline")
    weights, source, target, num_rows = function.args
    block = Block(writer, LANES[instructions], layer, weights, source, target, stride)
    if instructions == "amx":
        with writer.build.if_else(_are_few(writer.build, num_rows)) as (few, many):
            with few:
                by_registers(block, num_rows, has_dots=True, is_few=True)
            with many:
                by_tiles(block, num_rows)
    else:
        by_registers(block, num_rows, has_dots=instructions != "avx2")
    writer.build.ret_void()
    return function


def _are_few(build: ir.IRBuilder, num_rows: ir.Value) -> ir.Value:
    """Whether they are too few for tiles."""
    return build.icmp_signed("<", num_rows, I64(FEWEST_TILED))
