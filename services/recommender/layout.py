"""The form of a ranking model as it is served: pure.

Ids of fields are looked up in tables, whose rows are inputs of the dense graph. Tables are stored
alone, joined row by row, or multiplied (planner), one behind the other in an arena. Any model of
this form is served without a change of code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from services.recommender.program import ORDER_BYTES, Element, vector_bytes

FORMAT = 2
STRICT: dict[str, object] = {"extra": "forbid", "strict": True}

Values = Literal["all", "last", "parents", "roots"]
Pooling = Literal["sum", "mean"]
Unknown = Literal["zero", "default", "hash", "reject"]
Scope = Literal["context", "candidate", "item"]


@dataclass(frozen=True, slots=True)
class Table:
    """float32 [num_rows, dim] of the model as it was trained."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT
    name: str
    num_rows: int
    dim: int


@dataclass(frozen=True, slots=True)
class Field:
    """Where ids come from. A request names the values of a `context` field once, a `candidate`
    field's ids come with each candidate; those of an `item` field are numbers in a tensor."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT
    name: str
    scope: Scope
    num_rows: int
    """Ids are below it."""
    length: int | None
    """Ids of an item; None: any number, pooled."""
    unknown: Unknown
    """What an id or a name without a row reads: nothing, the default row, a row by its hash; or it
    is refused."""
    default_row: int = 0
    key: str | None = None
    """The request's context key that feeds it; several fields may share one."""
    values: Values = "all"
    """Which of the key's values are looked up (features.derive)."""
    vocabulary: str | None = None
    """File of names, one a line, the first being row 1; None: a value is its row's number."""
    ids: str | None = None
    """The index graph's output; None: the input of the field's name."""
    bounds: str | None = None
    """Likewise, where each bag begins and the last one ends; None: a bag is a row of `ids`."""
    order: int | None = None
    """Where in the arena the row of each id is said (sorting.py); None: it is the id."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """A field's rows of a table, into an input of the dense graph."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT
    field: str
    table: str
    pooling: Pooling | None
    """None: a vector for each id."""
    output: int
    """Which of `Layout.outputs`."""
    place: int
    """First of its values there."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """What a request gives: name, type, and shape behind the first axis (-1: any)."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT
    name: str
    dtype: Literal["int64", "float32"]
    shape: list[int]
    is_per_item: bool = True
    """False: its rows are the ids of all items' bags in one line."""


@dataclass(frozen=True, slots=True)
class Output:
    """An input of the dense graph that lookups fill: `width` values an item, shaped as `shape`."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT
    name: str
    width: int
    shape: list[int]


@dataclass(frozen=True, slots=True)
class Part:
    """A table within a stored one: where its vector is in a row, and how many rows its next id's
    is further on."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT
    table: str
    offset: int
    radix: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What one access reads a row of: `num_rows` of `stride` bytes, from `offset` of the arena."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT
    parts: list[Part]
    offset: int
    num_rows: int
    stride: int
    element: Element
    tier: str
    ns: float
    """What its accesses take an item, by the plan."""
    reason: str
    bank: int = 0
    """Of the tier's: banks are read side by side, and each takes its accesses one by one."""

    @property
    def num_bytes(self) -> int:
        return self.num_rows * self.stride

    @property
    def name(self) -> str:
        return "*".join(part.table for part in self.parts)


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
    fields: list[Field]
    tables: list[Table]
    lookups: list[Lookup]
    outputs: list[Output]
    inputs: list[Tensor]
    """What a request of tensors holds, beside or instead of the fields' ids."""
    stored: list[Stored]
    arena: str
    dense: str
    indices: str | None
    """Graph that makes ids of the inputs."""
    catalogue: Catalogue | None
    """None: the model is asked by tensors alone."""
    profile: str
    """The machine that the plan is for."""
    distance: int
    """Items by which the gather prefetches ahead, there."""
    files: dict[str, str]
    ns: float | None = None
    """What an item's lookups take by the plan; None: all accesses one by one."""
    layers: str | None = None
    """File of what the dense graph computes, where that is layers in int8 and nothing else."""

    @property
    def context_fields(self) -> list[Field]:
        return [field for field in self.fields if field.scope == "context"]

    @property
    def candidate_fields(self) -> list[Field]:
        return [field for field in self.fields if field.scope == "candidate"]

    @property
    def context_keys(self) -> list[str]:
        """What a request's context may hold."""
        return list(dict.fromkeys(field.key for field in self.context_fields if field.key))

    @property
    def num_features(self) -> int:
        """Values an item that are looked up."""
        return sum(output.width for output in self.outputs)

    @property
    def num_bytes(self) -> int:
        """Of the arena."""
        orders = [f.order + f.num_rows * ORDER_BYTES for f in self.fields if f.order is not None]
        return max([s.offset + s.num_bytes for s in self.stored] + orders, default=0)

    def order_of(self, table: str) -> int | None:
        """That of the fields that read a table."""
        readers = [lookup.field for lookup in self.lookups if lookup.table == table]
        return next((self.field(name).order for name in readers), None)

    def table(self, name: str) -> Table:
        """The table of that name, which must exist."""
        return next(table for table in self.tables if table.name == name)

    def field(self, name: str) -> Field:
        """The field of that name, which must exist."""
        return next(field for field in self.fields if field.name == name)


def contradictions(layout: Layout) -> Iterator[str]:
    """Sentences on what cannot be right, none for a sound layout."""
    if layout.format != FORMAT:
        yield f"format {layout.format}; this build reads {FORMAT}"
    for what, names in (
        ("field", [field.name for field in layout.fields]),
        ("table", [table.name for table in layout.tables]),
    ):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            yield f"two {what}s are called {', '.join(twice)}"
    yield from _wrong_lookups(layout)
    yield from _wrong_storage(layout)
    yield from _wrong_catalogue(layout)
    for file in used_files(layout):
        if "/" in file or file in ("", ".", ".."):
            yield f"{file!r} is not the name of a file in the folder"
        if file not in layout.files:
            yield f"{file} is used but has no checksum under files"


def _wrong_lookups(layout: Layout) -> Iterator[str]:
    if not layout.lookups:
        yield "no lookups: there is nothing to serve"
    for table in layout.tables:
        if table.num_rows < 1 or table.dim < 1:
            yield f"table {table.name} has {table.num_rows} rows of {table.dim}"
    yield from _wrong_fields(layout)
    fields = {field.name: field for field in layout.fields}
    tables = {table.name: table for table in layout.tables}
    for lookup in layout.lookups:
        wrong = _wrong_lookup(layout, lookup, fields.get(lookup.field), tables.get(lookup.table))
        if wrong is not None:
            yield f"the lookup of field {lookup.field} in table {lookup.table} {wrong}"


def _wrong_fields(layout: Layout) -> Iterator[str]:
    for field in layout.fields:
        if not 0 <= field.default_row < field.num_rows:
            yield f"field {field.name} has {field.num_rows} rows, default row {field.default_row}"
        if (field.scope == "context") != (field.key is not None):
            yield f"field {field.name} is of scope {field.scope} and has key {field.key}"
        if field.length is not None and field.length < 1:
            yield f"field {field.name} has {field.length} ids an item"
        if field.order is not None and field.order < 0:
            yield f"field {field.name} has its order at byte {field.order}"
    order_of = {field.name: field.order for field in layout.fields}
    for table in layout.tables:
        if len({order_of.get(x.field) for x in layout.lookups if x.table == table.name}) > 1:
            yield f"table {table.name} is read in several orders"


def _wrong_lookup(
    layout: Layout, lookup: Lookup, field: Field | None, table: Table | None
) -> str | None:
    if field is None or table is None:
        return "has no such field or table"
    if field.num_rows != table.num_rows:
        return f"has ids below {field.num_rows} for {table.num_rows} rows"
    if field.length is None and lookup.pooling is None:
        return "has any number of ids and no pooling"
    if not 0 <= lookup.output < len(layout.outputs):
        return f"goes to output {lookup.output}, which is not there"
    num_vectors = field.length if field.length and lookup.pooling is None else 1
    output = layout.outputs[lookup.output]
    if not 0 <= lookup.place <= output.width - table.dim * num_vectors:
        return f"goes beyond the {output.width} values of {output.name}"
    return None


def _wrong_storage(layout: Layout) -> Iterator[str]:
    tables = {table.name: table for table in layout.tables}
    stored = [part.table for s in layout.stored for part in s.parts]
    if sorted(stored) != sorted(tables):
        yield "the stored tables are not the model's tables, each once"
        return
    for place in layout.stored:
        reach: dict[int, int] = {}
        for part in place.parts:  # joined parts have one radix, and are read by one id
            last = part.radix * (tables[part.table].num_rows - 1)
            reach[part.radix] = max(last, reach.get(part.radix, 0))
        num_rows = 1 + sum(reach.values())
        if place.offset < 0 or place.num_rows < num_rows or min(p.radix for p in place.parts) < 1:
            yield f"stored table {place.name} has {place.num_rows} rows; its ids reach {num_rows}"
        for part in place.parts:
            size = vector_bytes(tables[part.table].dim, place.element)
            if not 0 <= part.offset <= place.stride - size:
                yield f"table {part.table} goes beyond the {place.stride} bytes of {place.name}"


def _wrong_catalogue(layout: Layout) -> Iterator[str]:
    catalogue = layout.catalogue
    if catalogue is None:
        return
    if not layout.candidate_fields:
        yield "no candidate fields: there is nothing to rank"
    if (catalogue.names is None) != (catalogue.rows is None):
        yield "catalogue.names and catalogue.rows come together or not at all"
    if catalogue.names is None and len(layout.candidate_fields) > 1:
        yield "a catalogue without files serves exactly one candidate field"
    if catalogue.exclude is not None and catalogue.exclude not in layout.context_keys:
        yield f"catalogue.exclude names {catalogue.exclude}, which is no context key"


def used_files(layout: Layout) -> list[str]:
    """Every file that the layout refers to, once."""
    catalogue = layout.catalogue
    optional = [
        *(field.vocabulary for field in layout.fields),
        *((catalogue.names, catalogue.rows) if catalogue else ()),
        *(layout.indices, layout.layers),
    ]
    return sorted({layout.arena, layout.dense, *(file for file in optional if file is not None)})
