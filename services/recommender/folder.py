"""Reads a ranking model's folder, verified, and refuses a broken one by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.recommender.catalogue import Items
from services.recommender.features import NamedRows, NumberedRows, Vocabulary
from services.recommender.layout import ContextField, Layout, Table
from services.recommender.manifest import load_manifest, version_of
from services.recommender.mlp import Mlp
from services.recommender.model import Model
from shared.errors import ModelError

FloatArray = npt.NDArray[np.float32]


def load_model(folder: Path, *, max_rows: int, num_threads: int) -> Model:
    """Tables are mapped, not read: processes on one host share one copy of them. Raises
    ModelError naming the folder and what is wrong with it."""
    layout = load_manifest(folder)
    tables = {table.name: _map_table(folder, table) for table in layout.tables}
    vocabularies = [_load_vocabulary(folder, layout, f) for f in layout.context_fields]
    items = _load_items(folder, layout)
    mlp = Mlp(folder / layout.mlp, layout.num_features, num_threads)
    return Model(layout, version_of(layout), tables, vocabularies, items, mlp, max_rows)


def _map_table(folder: Path, table: Table) -> FloatArray:
    array = _map_array(folder / table.file)
    if array.dtype != np.float32 or array.shape != (table.num_rows, table.dim):
        raise ModelError(
            f"{folder / table.file} holds {array.dtype} {list(array.shape)}; the manifest says "
            f"float32 [{table.num_rows}, {table.dim}]"
        )
    return array.view(np.float32)


def _load_vocabulary(folder: Path, layout: Layout, field: ContextField) -> Vocabulary:
    table = layout.table(field.table)
    if field.vocabulary is None:
        return NumberedRows(table.num_rows)
    names = _read_names(folder / field.vocabulary)
    if len(names) != table.num_rows - 1:
        raise ModelError(
            f"{folder / field.vocabulary} has {len(names)} names; table {table.name} has "
            f"{table.num_rows} rows, of which the first is the default row"
        )
    return NamedRows(names, first=1)


def _load_items(folder: Path, layout: Layout) -> Items:
    catalogue = layout.catalogue
    sizes = [layout.table(field.table).num_rows for field in layout.candidate_fields]
    if catalogue.names is None or catalogue.rows is None:
        return Items(sizes[0])
    names = _read_names(folder / catalogue.names)
    array = _map_array(folder / catalogue.rows)
    if array.dtype != np.int32 or array.shape != (len(names), len(sizes)):
        raise ModelError(
            f"{folder / catalogue.rows} holds {array.dtype} {list(array.shape)}; needed is int32 "
            f"[{len(names)}, {len(sizes)}], a row for each item and candidate field"
        )
    rows = array.view(np.int32)
    if not names or (rows < 0).any() or (rows >= np.array(sizes)).any():
        raise ModelError(f"{folder / catalogue.rows} is empty or points outside of its tables")
    return Items(len(names), names, rows)


def _map_array(file: Path) -> npt.NDArray[np.generic]:
    try:
        array: npt.NDArray[np.generic] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ModelError(f"{file} is no .npy file of an array: {error}") from error
    return array


def _read_names(file: Path) -> list[str]:
    try:
        names = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ModelError(f"{file} is not UTF-8: {error}") from error
    if len(set(names)) < len(names):
        raise ModelError(f"{file} holds a name twice")
    return names
