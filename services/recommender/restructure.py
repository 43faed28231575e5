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
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from services.recommender.layout import FORMAT, Layout, Stored
from services.recommender.manifest import FILE_NAME, save_manifest
from services.recommender.packing import pack
from services.recommender.planner.profiles import Profile
from services.recommender.planning import Limits, Planned, plan
from services.recommender.profile_file import DEFAULT, read_profile
from services.recommender.program import ELEMENTS
from services.recommender.progress import show
from services.recommender.source import Array, Source, read_folder
from services.recommender.tensors import shapes
from shared.errors import ModelError
from shared.lm.manifest import checksum

ARENA, DENSE, INDICES = "arena.bin", "dense.onnx", "indices.onnx"
CHUNK_BYTES = 16 << 20
Report = Callable[[float, str], None]


def read_source(source: Path) -> Source:
    """A folder, or a graph. Raises ModelError."""
    if source.is_dir():
        return read_folder(source)
    if not source.is_file():
        raise ModelError(f"{source} is not there")
    from services.recommender.imported import read_graph  # needs the onnx package

    return read_graph(source)


def restructure(
    source: Source, out: Path, profile: Profile, limits: Limits, report: Report
) -> tuple[Layout, Planned]:
    """Writes the folder `out`, which must be absent or empty. `report` gets the share of the arena
    that is written, and what is being written. Raises ModelError."""
    if out.exists() and any(out.iterdir()):
        raise ModelError(f"{out} is not empty; choose another folder")
    planned = plan(source.fields, source.tables, source.lookups, profile, limits)
    out.mkdir(parents=True, exist_ok=True)
    files = {ARENA: _write_arena(out / ARENA, planned.stored, source, report)}
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
        fields=source.fields,
        tables=source.tables,
        lookups=source.lookups,
        outputs=source.outputs,
        inputs=source.inputs,
        stored=planned.stored,
        arena=ARENA,
        dense=DENSE,
        indices=INDICES if source.indices is not None else None,
        catalogue=source.catalogue,
        profile=profile.name,
        distance=profile.distance,
        files=files,
    )
    if layout.indices is None:
        layout.inputs[:0] = shapes(layout)
    save_manifest(layout, out)
    report(1, FILE_NAME)
    return layout, planned


def _write_arena(file: Path, stored: list[Stored], source: Source, report: Report) -> str:
    """Its SHA-256."""
    digest = hashlib.sha256()
    total = sum(table.num_bytes for table in stored)
    written = 0
    with file.open("wb") as content:
        for table in stored:
            gap = bytes(table.offset - content.tell())
            content.write(gap)
            digest.update(gap)
            for rows in _rows(table, source):
                content.write(rows)
                digest.update(rows)
                written += len(rows)
                report(min(0.999, written / total), table.name)
    return digest.hexdigest()


def _rows(stored: Stored, source: Source) -> Iterator[memoryview]:
    """A stored table, chunk by chunk: in a product, row a·B + b holds row a of one table and row b
    of the other."""
    step = max(1, CHUNK_BYTES // stored.stride)
    for start in range(0, stored.num_rows, step):
        stop = min(stored.num_rows, start + step)
        chunk = np.zeros((stop - start, stored.stride), np.uint8)
        for part in stored.parts:
            table = source.arrays[part.table]
            if part.radix == 1 and stop <= len(table):
                values: Array = table[start:stop]
            else:
                values = table[np.arange(start, stop) // part.radix % len(table)]
            if not np.isfinite(values).all():
                raise ModelError(f"table {part.table} holds a value that is not finite")
            packed = pack(values.astype(np.float32, copy=False), stored.element)
            chunk[:, part.offset : part.offset + packed.shape[1]] = packed
        yield chunk.data


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
    parser = argparse.ArgumentParser(
        prog="services.recommender.restructure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help="folder of tables and dense graph, or a graph")
    parser.add_argument("out", type=Path, help="folder to write")
    add_limits(parser)
    arguments = parser.parse_args(argv)
    limits = limits_of(arguments)
    try:
        profile = read_profile(arguments.profile)
        source = read_source(arguments.source)
        layout, planned = restructure(source, arguments.out, profile, limits, show)
    except ModelError as error:
        print(f"restructure: {error}", file=sys.stderr)
        return 1
    print(
        f"{arguments.out}: {len(layout.tables)} tables stored as {len(layout.stored)}, "
        f"{layout.num_bytes / 1e6:.1f} MB ({layout.num_bytes / planned.bytes_alone:.1%}), lookups "
        f"of an item {planned.ns:.0f} ns by profile {profile.name} (apart {planned.ns_alone:.0f})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
