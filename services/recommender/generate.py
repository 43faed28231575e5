"""python -m services.recommender.generate small|large OUT [--scale S] [--seed N]

The models of the MicroRec paper (arXiv:2010.05894; tables in microrec.json, with their source),
with random weights: scores mean nothing, shapes and sizes are the paper's. Written table by table
in bounded memory, to be restructured; the description comes last. The largest table is the item's,
the others are fields of the context, and a value is its row's number.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from services.recommender.graph import Layer, write_graph
from services.recommender.layout import Catalogue, Table
from services.recommender.progress import show
from services.recommender.source import (
    DESCRIPTION,
    CandidateField,
    ContextField,
    Description,
    save_description,
)
from shared.errors import ModelError

CHUNK_VALUES = 1 << 22
"""Drawn and written at a time (16 MiB)."""
MLP_FILE = "mlp.onnx"


@dataclass(frozen=True, slots=True)
class Shape:
    """One model of the paper; `embedding_tables` lists (dim, rows, count)."""

    tables: int
    features: int
    embedding_tables: list[tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class Shapes:
    """microrec.json."""

    source: str
    hidden_layers: list[int]
    output: int
    small: Shape
    large: Shape
    embedding_tables_columns: list[str]


def generate(
    size: str, out: Path, scale: float, seed: int, report: Callable[[float, str], None]
) -> list[Table]:
    """Writes the folder `out`, which must be absent or empty; each table has `scale` of the
    paper's rows, at least one. `report` gets the share that is written. Raises ModelError."""
    if size not in ("small", "large"):
        raise ModelError(f"no model {size!r}; there are small and large")
    if not 0 < scale <= 1:
        raise ModelError(f"scale is {scale}; it must be above 0 and at most 1")
    if out.exists() and any(out.iterdir()):
        raise ModelError(f"{out} is not empty; choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    shapes = read_shapes()
    shape = shapes.small if size == "small" else shapes.large
    tables = _tables(shape, scale)
    total = sum(table.num_rows * table.dim * 4 for table in tables)
    written = 0
    for number, table in enumerate(tables):
        with (out / _file(table)).open("wb") as content:
            for piece in _pieces(table, np.random.default_rng([seed, number])):
                content.write(piece)
                written += len(piece)
                report(min(0.999, written / total), _file(table))
    widths = [shape.features, *shapes.hidden_layers, shapes.output]
    rng = np.random.default_rng([seed, len(tables)])
    write_graph(out / MLP_FILE, shape.features, _layers(widths, rng), None)
    *context, item = (table.name for table in tables)
    description = Description(
        dense=MLP_FILE,
        context_fields=[
            ContextField(name, name, "all", None, name, None, "reject") for name in context
        ],
        candidate_fields=[CandidateField(item, item)],
        catalogue=Catalogue(names=None, rows=None, exclude=None),
    )
    save_description(description, out)
    report(1, DESCRIPTION)
    return tables


def read_shapes() -> Shapes:
    """The paper's models, from the file beside this one."""
    return TypeAdapter(Shapes).validate_json(Path(__file__).with_name("microrec.json").read_bytes())


def _tables(shape: Shape, scale: float) -> list[Table]:
    """The smallest first, as the paper lists them."""
    sizes = [(dim, rows) for dim, rows, count in shape.embedding_tables for _ in range(count)]
    return [
        Table(f"table{i:02}", max(1, round(rows * scale)), dim)
        for i, (dim, rows) in enumerate(sizes)
    ]


def _file(table: Table) -> str:
    return f"{table.name}.npy"


def _pieces(table: Table, rng: np.random.Generator) -> Iterator[bytes]:
    """The table's .npy file piece by piece: random rows of variance 1 / dim."""
    header = BytesIO()
    shape = (table.num_rows, table.dim)
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    yield header.getvalue()
    remaining = table.num_rows * table.dim
    while remaining:
        count = min(remaining, CHUNK_VALUES)
        yield (rng.standard_normal(count, np.float32) / np.float32(np.sqrt(table.dim))).tobytes()
        remaining -= count


def _layers(widths: Sequence[int], rng: np.random.Generator) -> list[Layer]:
    """Of such variance that values neither grow nor fade from layer to layer (He)."""
    return [
        Layer(
            rng.standard_normal((inputs, outputs), np.float32) * np.float32(np.sqrt(2 / inputs)),
            np.zeros(outputs, np.float32),
        )
        for inputs, outputs in itertools.pairwise(widths)
    ]


def main(argv: list[str] | None = None) -> int:
    """The command. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="services.recommender.generate", description=__doc__)
    parser.add_argument("size", choices=["small", "large"], help="1.4 GB or 15 GB at scale 1")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the paper's rows")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    try:
        tables = generate(arguments.size, arguments.out, arguments.scale, arguments.seed, show)
    except ModelError as error:
        print(f"generate: {error}", file=sys.stderr)
        return 1
    size = sum(file.stat().st_size for file in arguments.out.iterdir())
    print(
        f"{arguments.out}: {len(tables)} tables, {sum(table.dim for table in tables)} features, "
        f"{size / 1e6:.1f} MB, to be restructured"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
