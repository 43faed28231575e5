"""A request's words to rows of tables: pure.

The same functions make the training data (models/train_recommender), so that a model is served
what it has learned. Knows no table's content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from zlib import crc32

from services.recommender.layout import Unknown, Values
from shared.errors import InvalidRequestError

NO_ROW = -1
"""Outside of every table: the gather reads zeros for it."""
MAX_VALUES = 1000
"""Of one context key: what a request may cost stays bounded."""


class ContextField(Protocol):
    """What decides which rows a context key's values read (layout.Field, source.ContextField)."""

    @property
    def name(self) -> str: ...
    @property
    def key(self) -> str | None: ...
    @property
    def values(self) -> Values: ...
    @property
    def unknown(self) -> Unknown: ...
    @property
    def default_row(self) -> int: ...
    @property
    def length(self) -> int | None:
        """Rows it reads; None: as many as there are."""


class Vocabulary(Protocol):
    """Which row a name has."""

    @property
    def num_rows(self) -> int: ...

    def row(self, name: str) -> int | None:
        """The name's row, None if it has none."""


class NamedRows:
    """Names in the order of their rows, the first one at row `first`."""

    def __init__(self, names: Sequence[str], first: int) -> None:
        self._rows = {name: row for row, name in enumerate(names, first)}
        self.num_rows = first + len(names)

    def row(self, name: str) -> int | None:
        return self._rows.get(name)


class NumberedRows:
    """A row's name is its number in decimal digits."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def row(self, name: str) -> int | None:
        if not (name.isascii() and name.isdecimal() and len(name) <= len(str(self.num_rows))):
            return None
        number = int(name)
        return number if number < self.num_rows else None


@dataclass(frozen=True, slots=True)
class ContextRows:
    """The rows to look up, for each context field in order."""

    rows: list[list[int]]
    num_unknown: int
    """Values of the request that no row was trained for."""


def derive(values: Sequence[str], which: Values) -> list[str]:
    """What a field looks up of its key's values: `all`; the `last`; `parents`: each value `a.b.c`
    and its parents `a.b` and `a`; `roots`: the `a` of each, once."""
    match which:
        case "all":
            return list(values)
        case "last":
            return list(values[-1:])
        case "parents":
            return [name for value in values for name in _with_parents(value)]
        case "roots":
            return list(dict.fromkeys(value.partition(".")[0] for value in values))


def rows_of(field: ContextField, vocabulary: Vocabulary, values: Sequence[str]) -> list[int]:
    """The rows a field looks up. A name without a row reads what the field says, but not where a
    parent stands in for it. Raises InvalidRequestError where the field refuses it, or takes
    another number of values."""
    found = [(name, vocabulary.row(name)) for name in derive(values, field.values)]
    known = [row for _, row in found if row is not None]
    if field.values == "parents" and known:
        return _as_many(field, known, vocabulary)
    if field.unknown == "reject":
        for name, row in found:
            if row is None:
                raise InvalidRequestError(
                    f"context.{field.key} holds {name!r}, which {field.name} has no row for",
                    f"context.{field.key}",
                )
    rows = [_instead(field, name, vocabulary) if row is None else row for name, row in found]
    return _as_many(field, rows, vocabulary)


def _instead(field: ContextField, name: str, vocabulary: Vocabulary) -> int:
    match field.unknown:
        case "zero":
            return NO_ROW
        case "hash":
            return crc32(name.encode("utf-8", "surrogatepass")) % vocabulary.num_rows
        case _:
            return field.default_row


def _as_many(field: ContextField, rows: list[int], vocabulary: Vocabulary) -> list[int]:
    """Where a field takes a number of rows, those that are left out read what unknown ones do."""
    if field.length is None or len(rows) == field.length:
        return rows
    if len(rows) > field.length or field.unknown == "reject":
        raise InvalidRequestError(
            f"context.{field.key} gives {field.name} {len(rows)} values; it takes {field.length}",
            f"context.{field.key}",
        )
    return rows + [_instead(field, "", vocabulary)] * (field.length - len(rows))


def read_context(
    fields: Sequence[ContextField],
    vocabularies: Sequence[Vocabulary],
    context: Mapping[str, Sequence[str]],
) -> ContextRows:
    """The rows of a request's context; a key that is left out has no values. Raises
    InvalidRequestError for a key that no field reads, too many values, or a refused one."""
    known = list(dict.fromkeys(field.key for field in fields if field.key))
    for key, values in context.items():
        if key not in known:
            raise InvalidRequestError(
                f"context has {key!r}; this model reads {', '.join(known)}", f"context.{key}"
            )
        if len(values) > MAX_VALUES:
            raise InvalidRequestError(
                f"context.{key} has {len(values)} values; at most {MAX_VALUES} are allowed",
                f"context.{key}",
            )
    pairs = list(zip(fields, vocabularies, strict=True))
    rows = [rows_of(field, words, context.get(field.key or "", ())) for field, words in pairs]
    # Fields that share a key share its values: the first one speaks for them.
    first = {field.key or "": words for field, words in reversed(pairs)}
    num_unknown = sum(
        words.row(value) is None for key, words in first.items() for value in context.get(key, ())
    )
    return ContextRows(rows, num_unknown)


def _with_parents(name: str) -> list[str]:
    """`a.b.c`, `a.b`, `a`."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
