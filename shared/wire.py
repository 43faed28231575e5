"""What messages and their parts are made of."""

from __future__ import annotations

from msgspec import NODEFAULT as MISSING
from msgspec import Struct, field, to_builtins
from msgspec.structs import FieldInfo as Field
from msgspec.structs import fields, replace

__all__ = ["MISSING", "Field", "Wired", "field", "fields", "plain", "replace"]


class Wired(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Values that travel together: on the wire a map, without the fields at their default, so that
    processes that do not know those yet read the rest.

    A default is told by sight: None, booleans, whole numbers up to 256 and empty collections always
    are, a fraction that was computed may not be. So a field that is new to a release has one of
    the former as its default."""


def plain(value: Wired) -> dict[str, object]:
    """The map that it is on the wire."""
    told: dict[str, object] = to_builtins(value, builtin_types=(bytes,))
    return told
