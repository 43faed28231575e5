"""A ranking model as it was trained, ready to be restructured.

A folder of tables (.npy or .safetensors) and a dense graph. `model.json`, if there, says which
fields read which tables, and what names they have; without it each table is a field of its own,
whose ids come as a tensor of the table's name.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from services.recommender.dense import open_session
from services.recommender.layout import (
    STRICT,
    Catalogue,
    Field,
    Lookup,
    Output,
    Pooling,
    Table,
    Tensor,
    Unknown,
    Values,
)
from services.recommender.safetensors import map_tensors
from shared.errors import ModelError

Array = npt.NDArray[np.float32] | npt.NDArray[np.float16]
DESCRIPTION = "model.json"


@dataclass(frozen=True, slots=True)
class ContextField:
    """Lookups in one table, pooled into one vector (no value at all: zeros), or exactly one."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT
    name: str
    key: str
    values: Values
    pooling: Pooling | None
    table: str
    vocabulary: str | None
    unknown: Unknown
    default_row: int = 0

    @property
    def length(self) -> int | None:
        return 1 if self.pooling is None else None


@dataclass(frozen=True, slots=True)
class CandidateField:
    """One lookup for each candidate."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT
    name: str
    table: str
    ids_of: str | None = None
    """Another candidate field, whose ids this one reads; None: it has ids of its own."""


@dataclass(frozen=True, slots=True)
class Description:
    """model.json. The dense graph's one input is the context fields' vectors, then the candidate
    fields', each in this order."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT
    dense: str
    context_fields: list[ContextField]
    candidate_fields: list[CandidateField]
    catalogue: Catalogue


@dataclass(frozen=True, slots=True)
class Source:
    """Layout parts that do not depend on where tables are stored, and the weights."""

    fields: list[Field]
    tables: list[Table]
    lookups: list[Lookup]
    outputs: list[Output]
    inputs: list[Tensor]
    arrays: Mapping[str, Array]
    """By table, [num_rows, dim], mapped rather than read where they lie in a file."""
    dense: Path | bytes
    indices: bytes | None = None
    catalogue: Catalogue | None = None
    others: list[Path] = field(default_factory=list)
    """Vocabularies and the catalogue's files."""


def read_folder(folder: Path) -> Source:
    """Raises ModelError naming what is missing or does not fit."""
    arrays = _read_tables(folder)
    if (folder / DESCRIPTION).is_file():
        return _described(folder, _read_description(folder), arrays)
    graphs = sorted(folder.glob("*.onnx"))
    if len(graphs) != 1:
        raise ModelError(
            f"{folder} has {len(graphs)} .onnx files; needed is the dense part alone, or a "
            f"{DESCRIPTION} that names it"
        )
    return _undescribed(graphs[0], arrays)


def read_counts(file: Path) -> dict[str, npt.NDArray[np.int64]]:
    """A .npz of how often each id of a field is read: integers [num_rows] by the field's name.
    Raises ModelError."""
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = dict(content)
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise ModelError(f"{file} is no .npz file of arrays: {error}") from error
    for name, counts in arrays.items():
        if counts.ndim != 1 or counts.dtype.kind not in "iu" or (counts < 0).any():
            raise ModelError(
                f"the counts of {name} in {file} are {counts.dtype} {list(counts.shape)}; needed "
                "is a whole number from 0 on for each id"
            )
    return {name: counts.astype(np.int64) for name, counts in arrays.items()}


def save_description(description: Description, folder: Path) -> None:
    """Writes model.json."""
    (folder / DESCRIPTION).write_bytes(
        TypeAdapter(Description).dump_json(description, indent=2) + b"\n"
    )


def _read_description(folder: Path) -> Description:
    path = folder / DESCRIPTION
    try:
        return TypeAdapter(Description).validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"])) or "the file"
        raise ModelError(f"{path}: {place}: {problem['msg']}") from error


def _described(folder: Path, wanted: Description, arrays: Mapping[str, Array]) -> Source:
    both: list[ContextField | CandidateField] = [*wanted.context_fields, *wanted.candidate_fields]
    for one in both:
        if one.table not in arrays:
            raise ModelError(
                f"{folder / DESCRIPTION}: field {one.name} reads table {one.table}; there are "
                f"{', '.join(sorted(arrays))}"
            )
    used = {one.table: arrays[one.table] for one in both}
    readers = _readers(folder, wanted, {name: len(array) for name, array in used.items()})
    places = _places([used[one.table].shape[1] for one in both])
    lookups = [
        Lookup(
            readers[one.name].name,
            one.table,
            one.pooling if isinstance(one, ContextField) else None,
            *(0, place),
        )
        for one, place in zip(both, places, strict=False)
    ]
    dense = folder / wanted.dense
    names = [tensor.name for tensor in _graph_inputs(dense)]
    if len(names) != 1:
        raise ModelError(f"{dense} has inputs {', '.join(names)}; needed is one, for all fields")
    fields = list({field.name: field for field in readers.values()}.values())
    catalogue = wanted.catalogue
    files = {f.vocabulary for f in fields} | {catalogue.names, catalogue.rows}
    return Source(
        fields,
        _tables(used),
        lookups,
        [Output(names[0], places[-1], [places[-1]])],
        [],
        used,
        dense,
        catalogue=catalogue,
        others=[folder / file for file in sorted(f for f in files if f)],
    )


def _readers(folder: Path, wanted: Description, num_rows: Mapping[str, int]) -> dict[str, Field]:
    """For each described field the one whose ids it reads: fields that take the same values in the
    same way, and have as many rows, are one, so that their tables can be joined."""
    found: dict[str, Field] = {}
    same: dict[tuple[object, ...], Field] = {}
    for c in wanted.context_fields:
        way = (num_rows[c.table], c.length, c.unknown, c.default_row, c.key, c.values, c.vocabulary)
        first = Field(c.name, "context", *way)
        found[c.name] = same.setdefault(way, first)
    for own in wanted.candidate_fields:
        if own.ids_of is None:
            found[own.name] = Field(own.name, "candidate", num_rows[own.table], 1, "reject")
            continue
        other = found.get(own.ids_of)
        if other is None or other.scope != "candidate" or other.num_rows != num_rows[own.table]:
            raise ModelError(
                f"{folder / DESCRIPTION}: {own.name} reads the ids of {own.ids_of}, which is no "
                "candidate field before it with a table of as many rows"
            )
        found[own.name] = other
    return found


def _undescribed(dense: Path, arrays: Mapping[str, Array]) -> Source:
    """Inputs of the dense graph are named as tables, or one takes all in the order of their
    names; others are a request's numbers."""
    inputs = _graph_inputs(dense)
    own = [tensor for tensor in inputs if tensor.name in arrays]
    order = [tensor.name for tensor in own] or sorted(arrays)
    if unused := sorted(arrays.keys() - set(order)):
        raise ModelError(f"{dense} has no input for {', '.join(unused)}")
    places = _places([arrays[name].shape[1] for name in order])
    if own:
        outputs = [Output(n, arrays[n].shape[1], [arrays[n].shape[1]]) for n in order]
        lookups = [Lookup(name, name, None, k, 0) for k, name in enumerate(order)]
    else:
        fitting = [t.name for t in inputs if t.shape == [places[-1]]]
        if len(fitting) != 1:
            raise ModelError(
                f"{dense} has inputs {', '.join(t.name for t in inputs)}; needed is one for each "
                f"table ({', '.join(order)}), or one of their {places[-1]} values together"
            )
        outputs = [Output(fitting[0], places[-1], [places[-1]])]
        lookups = [
            Lookup(name, name, None, 0, place) for name, place in zip(order, places, strict=False)
        ]
    taken = {output.name for output in outputs}
    return Source(
        [Field(name, "item", len(arrays[name]), 1, "reject") for name in order],
        _tables({name: arrays[name] for name in order}),
        lookups,
        outputs,
        [tensor for tensor in inputs if tensor.name not in taken],
        arrays,
        dense,
    )


def _graph_inputs(dense: Path) -> list[Tensor]:
    if not dense.is_file():
        raise ModelError(f"{dense} is not there")
    session = open_session(dense)
    found = []
    for given in session.get_inputs():
        shape = [size if isinstance(size, int) else -1 for size in given.shape[1:]]
        if given.type != "tensor(float)" or -1 in shape:
            raise ModelError(f"{dense} has input {given.name}: {given.type} {given.shape}; needed "
                             "are floats, of one size but for the first axis")  # fmt: skip
        found.append(Tensor(given.name, "float32", shape))
    return found


def _places(dims: Sequence[int]) -> list[int]:
    """Where each vector begins, and where the last one ends."""
    return [0, *np.cumsum(dims).tolist()]


def _tables(arrays: Mapping[str, Array]) -> list[Table]:
    return [Table(name, *array.shape) for name, array in arrays.items()]


def _read_tables(folder: Path) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for file in sorted(folder.glob("*.npy")):
        try:
            array: npt.NDArray[np.generic] = np.load(file, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ModelError(f"{file} is no .npy file of an array: {error}") from error
        if array.ndim == 2 and array.dtype.kind == "f":
            arrays[file.stem] = _table(f"{file}", array)
    for file in sorted(folder.glob("*.safetensors")):
        for name, array in map_tensors(file).items():
            arrays[name.removesuffix(".weight")] = _table(f"{name} of {file}", array)
    if not arrays:
        raise ModelError(f"{folder} has no tables: no .npy or .safetensors of two axes")
    return arrays


def _table(name: str, array: npt.NDArray[np.generic]) -> Array:
    if array.ndim != 2 or 0 in array.shape or array.dtype not in (np.float32, np.float16):
        raise ModelError(
            f"{name} is {array.dtype} {list(array.shape)}; needed is float32 or float16 [rows, dim]"
        )
    return array  # type: ignore[return-value]
