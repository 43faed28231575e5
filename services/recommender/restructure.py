"""python -m services.recommender.restructure SOURCE OUT [--profile P] [--elements fp32|fp16|int8]

Makes a model that the recommender serves of one that was trained: SOURCE is a folder of tables
(.npy or .safetensors) with the dense part as ONNX, or one ONNX graph of a whole click-through
model, as torch.onnx exports it. The planner says for a machine which tables to join and to
multiply; all of them are written into one arena, in memory of a chunk, and the manifest last.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from services.recommender.layout import FORMAT, Field, Layout, Stored
from services.recommender.manifest import FILE_NAME, save_manifest
from services.recommender.packing import pack
from services.recommender.planner.profiles import Profile
from services.recommender.planning import ALIGNMENT, Limits, Planned, plan
from services.recommender.profile_file import DEFAULT, read_profile
from services.recommender.program import ELEMENTS
from services.recommender.progress import show
from services.recommender.sorting import (
    MIN_ROW_BYTES,
    NO_COUNTS,
    Counts,
    IntArray,
    Order,
    orders_by_frequency,
)
from services.recommender.source import Array, Source, read_counts, read_folder
from services.recommender.tensors import shapes
from shared.command_line import parser_of
from shared.errors import ModelError
from shared.lm.manifest import checksum

ARENA, DENSE, INDICES = "arena.bin", "dense.onnx", "indices.onnx"
CHUNK_BYTES = 16 << 20
Report = Callable[[float, str], None]


@dataclass(slots=True)
class _Sorted:
    """Fields and stored tables that know of their orders; these by their places in the arena, and
    by sorted table the ids that read its rows, one by one."""

    fields: list[Field]
    stored: list[Stored]
    orders: dict[int, Order] = field(default_factory=dict)
    ids: dict[str, IntArray] = field(default_factory=dict)


def read_source(source: Path) -> Source:
    """A folder, or a graph. Raises ModelError."""
    if source.is_dir():
        return read_folder(source)
    if not source.is_file():
        raise ModelError(f"{source} is not there")
    from services.recommender.imported import read_graph  # needs the onnx package

    return read_graph(source)


def restructure(
    source: Source,
    out: Path,
    profile: Profile,
    limits: Limits,
    report: Report,
    counts: Counts = NO_COUNTS,
) -> tuple[Layout, Planned]:
    """Writes the folder `out`, which must be absent or empty. `report` gets the share of the arena
    that is written, and what is being written. Raises ModelError."""
    if out.exists() and any(out.iterdir()):
        raise ModelError(f"{out} is not empty; choose another folder")
    planned = plan(source.fields, source.tables, source.lookups, profile, limits)
    placed = _sorted(source, planned.stored, counts)
    out.mkdir(parents=True, exist_ok=True)
    files = {ARENA: _write_arena(out / ARENA, placed, source, report)}
    _put(source.dense, out / DENSE)
    if source.indices is not None:
        _put(source.indices, out / INDICES)
    for other in source.others:
        if not other.is_file():
            raise ModelError(f"{other} is not there")
        shutil.copyfile(other, out / other.name)
    for file in sorted(out.iterdir()):
        files.setdefault(file.name, checksum(file))
    layout = Layout(
        format=FORMAT,
        fields=placed.fields,
        tables=source.tables,
        lookups=source.lookups,
        outputs=source.outputs,
        inputs=source.inputs,
        stored=placed.stored,
        arena=ARENA,
        dense=DENSE,
        indices=INDICES if source.indices is not None else None,
        catalogue=source.catalogue,
        profile=profile.name,
        distance=profile.distance,
        files=files,
        ns=round(planned.ns, 3),
    )
    if layout.indices is None:
        layout.inputs[:0] = shapes(layout)
    save_manifest(layout, out)
    report(1, FILE_NAME)
    return layout, planned


def _sorted(source: Source, stored: list[Stored], counts: Counts) -> _Sorted:
    """Orders lie behind the tables."""
    found = _Sorted(source.fields, stored)
    end = max(table.offset + table.num_bytes for table in stored)
    row_bytes = {part.table: table.stride for table in stored for part in table.parts}
    for names, order in orders_by_frequency(source.fields, source.lookups, row_bytes, counts):
        place = -(-end // ALIGNMENT) * ALIGNMENT
        end = place + order.nbytes
        found.orders[place] = order
        found.fields = [replace(f, order=place) if f.name in names else f for f in found.fields]
        tables = {lookup.table for lookup in source.lookups if lookup.field in names}
        found.ids |= dict.fromkeys(tables, np.argsort(order))
    found.stored = [
        replace(s, reason=f"{s.reason}; rows by frequency")
        if any(part.table in found.ids for part in s.parts)
        else s
        for s in stored
    ]
    return found


def _write_arena(file: Path, placed: _Sorted, source: Source, report: Report) -> str:
    """Its SHA-256."""
    digest = hashlib.sha256()
    total = sum(table.num_bytes for table in placed.stored)
    written = 0
    with file.open("wb") as content:

        def write(offset: int, data: bytes | memoryview) -> None:
            for part in (bytes(offset - content.tell()), data):
                content.write(part)
                digest.update(part)

        for table in placed.stored:
            offset = table.offset
            for rows in _rows(table, source, placed.ids):
                write(offset, rows)
                offset += len(rows)
                written += len(rows)
                report(min(0.999, written / total), table.name)
        for offset, order in placed.orders.items():
            write(offset, order.astype("<i4").tobytes())
    return digest.hexdigest()


def _rows(stored: Stored, source: Source, ids: Mapping[str, IntArray]) -> Iterator[memoryview]:
    """A stored table, chunk by chunk: in a product, row a·B + b holds row a of one table and row b
    of the other. `ids` says of sorted tables which id reads each row."""
    step = max(1, CHUNK_BYTES // stored.stride)
    for start in range(0, stored.num_rows, step):
        stop = min(stored.num_rows, start + step)
        chunk = np.zeros((stop - start, stored.stride), np.uint8)
        for part in stored.parts:
            table = source.arrays[part.table]
            if part.radix == 1 and stop <= len(table) and part.table not in ids:
                values: Array = table[start:stop]
            else:
                rows = np.arange(start, stop) // part.radix % len(table)
                values = table[ids[part.table][rows] if part.table in ids else rows]
            if not np.isfinite(values).all():
                raise ModelError(f"table {part.table} holds a value that is not finite")
            packed = pack(values.astype(np.float32, copy=False), stored.element)
            chunk[:, part.offset : part.offset + packed.shape[1]] = packed
        # A map of bytes, so that its length is theirs.
        yield chunk.data.cast("B")


def _put(content: Path | bytes, file: Path) -> None:
    if isinstance(content, Path):
        shutil.copyfile(content, file)
    else:
        file.write_bytes(content)


def add_limits(parser: argparse.ArgumentParser) -> None:
    """The arguments that `limits_of` reads, and `--profile`."""
    parser.add_argument(
        "--profile", default=DEFAULT, help="of the machine: a name or a file (profile command)"
    )
    parser.add_argument("--elements", choices=ELEMENTS, default="fp32", help="that tables are in")
    parser.add_argument(
        "--max-bytes", type=int, help="the largest tables become narrower until all take no more"
    )
    parser.add_argument(
        "--max-growth", type=float, default=0.05, help="share of the bytes that products may add"
    )
    parser.add_argument(
        "--multiply", action="append", default=[], metavar="A*B", help="make this product"
    )


def limits_of(arguments: argparse.Namespace) -> Limits:
    return Limits(
        arguments.elements,
        arguments.max_bytes,
        arguments.max_growth,
        tuple(tuple(product.split("*")) for product in arguments.multiply),
    )


def main(argv: list[str] | None = None) -> int:
    """The command. Returns its exit code."""
    parser = parser_of("services.recommender.restructure", __doc__)
    parser.add_argument("source", type=Path, help="folder of tables and dense graph, or a graph")
    parser.add_argument("out", type=Path, help="folder to write")
    add_limits(parser)
    parser.add_argument(
        "--counts",
        type=Path,
        metavar="NPZ",
        help="how often each id is read, by field: its rows are stored in that order",
    )
    parser.add_argument(
        "--min-sorted-bytes",
        type=int,
        default=MIN_ROW_BYTES,
        help="of a row: narrower ones would gain less than their order costs",
    )
    arguments = parser.parse_args(argv)
    limits = limits_of(arguments)
    try:
        profile = read_profile(arguments.profile)
        source = read_source(arguments.source)
        by_field = read_counts(arguments.counts) if arguments.counts else {}
        counts = Counts(by_field, arguments.min_sorted_bytes)
        layout, planned = restructure(source, arguments.out, profile, limits, show, counts)
    except ModelError as error:
        print(f"restructure: {error}", file=sys.stderr)
        return 1
    print(
        f"{arguments.out}: {len(layout.tables)} tables stored as {len(layout.stored)}, "
        f"{layout.num_bytes / 1e6:.1f} MB ({layout.num_bytes / planned.bytes_alone:.1%}), lookups "
        f"of an item {planned.ns:.0f} ns by profile {profile.name} (apart {planned.ns_alone:.0f})"
    )
    if by_field:
        hot = [field.name for field in layout.fields if field.order is not None]
        print(f"rows by frequency of {', '.join(hot) or 'no field: none has rows that wide'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
