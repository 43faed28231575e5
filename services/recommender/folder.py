"""Reads a ranking model's folder, verified, and refuses a broken one by name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.recommender.catalogue import Items
from services.recommender.engine import SLICE_ROWS, Engine
from services.recommender.features import NamedRows, NumberedRows, Vocabulary
from services.recommender.ids import IdGraph
from services.recommender.layers import read_layers
from services.recommender.layout import Catalogue, Field, Layout
from services.recommender.manifest import load_manifest, version_of
from services.recommender.memory import HUGE_PAGE, Arena, Memory, map_arena
from services.recommender.model import Model
from services.recommender.names import Names
from services.recommender.sorting import orders_in
from services.recommender.tensors import Tensors
from services.recommender.wiring import wire
from shared.errors import ModelError

logger = logging.getLogger(__name__)


def load_model(
    folder: Path,
    *,
    num_threads: int,
    slice_rows: int = SLICE_ROWS,
    memory: Memory = "shared",
    version: str | None = None,
) -> Model:
    """`version` is what it is called, its digest if left out. Raises ModelError naming the folder
    and what is wrong with it."""
    layout = load_manifest(folder)
    arena = map_arena(folder / layout.arena, layout.num_bytes, memory)
    _tell(folder, arena, memory)
    orders_in(layout, arena.bytes)
    layers = read_layers(folder / layout.layers) if layout.layers else None
    dense = folder / layout.dense
    engine = Engine(layout, arena, dense, layers, num_threads=num_threads, slice_rows=slice_rows)
    wiring = wire(layout)
    graph = IdGraph(folder / layout.indices) if layout.indices else None
    names = None
    if layout.catalogue is not None:
        engine.require_one_score()
        words = [_load_vocabulary(folder, field) for field in layout.context_fields]
        names = Names(layout, wiring, words, _load_items(folder, layout, layout.catalogue))
    digest = version_of(layout)
    tensors = Tensors(layout, wiring, graph)
    return Model(layout, version or digest, digest, engine, tensors, names)


def _tell(folder: Path, arena: Arena, memory: Memory) -> None:
    """Where lookups will be slower than they could be, and what helps."""
    size = len(arena.bytes)
    logger.debug("%s: %d bytes, %d of them on huge pages", folder, size, arena.huge_bytes)
    if size >= 2 * HUGE_PAGE and arena.huge_bytes < size / 2:
        logger.warning(
            "%s is mostly on small pages, which makes lookups slower%s",
            *(folder / "arena", "; RECOMMENDER_MEMORY=copied may help" * (memory == "shared")),
        )


def _load_vocabulary(folder: Path, field: Field) -> Vocabulary:
    if field.vocabulary is None:
        return NumberedRows(field.num_rows)
    names = _read_names(folder / field.vocabulary)
    if len(names) != field.num_rows - 1:
        raise ModelError(
            f"{folder / field.vocabulary} has {len(names)} names; field {field.name} has "
            f"{field.num_rows} rows, of which the first is the default row"
        )
    return NamedRows(names, first=1)


def _load_items(folder: Path, layout: Layout, catalogue: Catalogue) -> Items:
    sizes = [field.num_rows for field in layout.candidate_fields]
    if catalogue.names is None or catalogue.rows is None:
        return Items(sizes[0])
    names = _read_names(folder / catalogue.names)
    rows = _load_rows(folder / catalogue.rows, names, sizes)
    return Items(len(names), names, rows)


def _load_rows(file: Path, names: Sequence[str], sizes: Sequence[int]) -> npt.NDArray[np.int32]:
    try:
        array: npt.NDArray[np.generic] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ModelError(f"{file} is no .npy file of an array: {error}") from error
    if array.dtype != np.int32 or array.shape != (len(names), len(sizes)):
        raise ModelError(
            f"{file} holds {array.dtype} {list(array.shape)}; needed is int32 "
            f"[{len(names)}, {len(sizes)}], a row for each item and candidate field"
        )
    rows = array.view(np.int32)
    if not names or (rows < 0).any() or (rows >= np.array(sizes)).any():
        raise ModelError(f"{file} is empty or points outside of its tables")
    return rows


def _read_names(file: Path) -> list[str]:
    try:
        names = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ModelError(f"{file} is not UTF-8: {error}") from error
    if len(set(names)) < len(names):
        raise ModelError(f"{file} holds a name twice")
    return names
