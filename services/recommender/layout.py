"""The form of a ranking model: fields, tables, catalogue, MLP: pure.

The MLP's input is the pooled rows of the context fields, then the rows of the candidate fields,
each in the layout's order. Any model of this form is served without a change of code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

FORMAT = 1
STRICT: dict[str, object] = {"extra": "forbid", "strict": True}

Values = Literal["all", "last", "parents", "roots"]
Pooling = Literal["sum", "mean"]
Unknown = Literal["default", "reject"]


@dataclass(frozen=True, slots=True)
class Table:
    """float32 [num_rows, dim] in a .npy file. Where names map to rows, row 0 is the default row."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT
    name: str
    file: str
    num_rows: int
    dim: int


@dataclass(frozen=True, slots=True)
class ContextField:
    """Lookups in one table, pooled into one vector. No value at all is a vector of zeros."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT
    name: str
    key: str
    """The request's context key that feeds it; several fields may share one."""
    values: Values
    """Which of the key's values are looked up (features.derive)."""
    pooling: Pooling
    table: str
    vocabulary: str | None
    """File of names, one a line, the first being row 1; None: a value is its row's number."""
    unknown: Unknown
    """A value without a row reads row 0, or is refused."""


@dataclass(frozen=True, slots=True)
class CandidateField:
    """One lookup for each candidate."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT
    name: str
    table: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The items. Without files, item number i is called "i" and reads row i of the one field."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT
    names: str | None
    """File of item names, one a line."""
    rows: str | None
    """File of int32 [num_items, num candidate fields]."""
    exclude: str | None
    """Context key whose values are not recommended again."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A whole model. `files` maps each other file of the folder to its SHA-256."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT
    format: int
    context_fields: list[ContextField]
    candidate_fields: list[CandidateField]
    tables: list[Table]
    catalogue: Catalogue
    mlp: str
    files: dict[str, str]

    @property
    def num_features(self) -> int:
        """Width of the MLP's input."""
        return sum(self.table(field.table).dim for field in self.fields)

    @property
    def fields(self) -> list[ContextField | CandidateField]:
        """All fields, in the order of the MLP's input."""
        return [*self.context_fields, *self.candidate_fields]

    @property
    def context_keys(self) -> list[str]:
        """What a request's context may hold."""
        return list(dict.fromkeys(field.key for field in self.context_fields))

    def table(self, name: str) -> Table:
        """The table of that name, which must exist."""
        return next(table for table in self.tables if table.name == name)


def contradictions(layout: Layout) -> Iterator[str]:
    """Sentences on what cannot be right, none for a sound layout."""
    if layout.format != FORMAT:
        yield f"format {layout.format}; this build reads {FORMAT}"
    if not layout.candidate_fields:
        yield "no candidate fields: there is nothing to rank"
    yield from _wrong_tables(layout)
    names = [field.name for field in layout.fields]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        yield f"two fields are called {', '.join(twice)}"
    yield from _wrong_catalogue(layout)
    for file in used_files(layout):
        if "/" in file or file in ("", ".", ".."):
            yield f"{file!r} is not the name of a file in the folder"
        if file not in layout.files:
            yield f"{file} is used but has no checksum under files"


def _wrong_tables(layout: Layout) -> Iterator[str]:
    names = [table.name for table in layout.tables]
    if len(set(names)) < len(names):
        yield "two tables have one name"
    for table in layout.tables:
        if table.num_rows < 1 or table.dim < 1:
            yield f"table {table.name} has {table.num_rows} rows of {table.dim}"
    for field in layout.fields:
        if field.table not in names:
            yield f"field {field.name} reads table {field.table}, which is not there"


def _wrong_catalogue(layout: Layout) -> Iterator[str]:
    catalogue = layout.catalogue
    if (catalogue.names is None) != (catalogue.rows is None):
        yield "catalogue.names and catalogue.rows come together or not at all"
    if catalogue.names is None and len(layout.candidate_fields) > 1:
        yield "a catalogue without files serves exactly one candidate field"
    keys = {field.key for field in layout.context_fields}
    if catalogue.exclude is not None and catalogue.exclude not in keys:
        yield f"catalogue.exclude names {catalogue.exclude}, which is no context key"


def used_files(layout: Layout) -> list[str]:
    """Every file that the layout refers to, once."""
    optional = [
        *(field.vocabulary for field in layout.context_fields),
        layout.catalogue.names,
        layout.catalogue.rows,
    ]
    present = [file for file in optional if file is not None]
    return sorted({*(table.file for table in layout.tables), *present, layout.mlp})
