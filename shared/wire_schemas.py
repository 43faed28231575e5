"""What the wire's classes say of themselves: JSON schemas, and words. Texts below fields, which
Python does not keep, are read from the source."""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Iterator
from textwrap import dedent
from typing import Any, Union, get_args, get_origin, get_type_hints

from shared.messages import MESSAGES
from shared.wire import MISSING, Field, Wired, fields

Json = dict[str, Any]
SCALARS: dict[object, Json] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    bytes: {"type": "string", "format": "binary"},
}


def parts() -> dict[str, type[Wired]]:
    """The messages, and the classes that their fields are of, by name in that order."""
    found: dict[str, type[Wired]] = {cls.__name__: cls for cls in MESSAGES}
    waiting = list(found.values())
    while waiting:
        for hint in get_type_hints(waiting.pop(0)).values():
            for cls in _classes(hint):
                if cls.__name__ not in found:
                    found[cls.__name__] = cls
                    waiting.append(cls)
    return found


def object_schema(cls: type[Wired]) -> Json:
    """Of the map that it is on the wire."""
    hints, notes = get_type_hints(cls), notes_of(cls)
    properties: Json = {}
    for field in fields(cls):
        own = properties[field.name] = dict(_schema(hints[field.name]))
        if field.name in notes:
            own["description"] = notes[field.name]
        if (default := default_of(field)) is not MISSING:
            own["default"] = default
    return {
        "type": "object",
        "description": text_of(cls),
        "required": [f.name for f in fields(cls) if default_of(f) is MISSING],
        "additionalProperties": False,
        "properties": properties,
    }


def _schema(hint: Any) -> Json:
    """Of a value on the wire."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is list:
        return {"type": "array", "items": _schema(args[0])}
    if origin is tuple:
        items = [_schema(arg) for arg in args]
        return {"type": "array", "prefixItems": items, "minItems": len(args), "maxItems": len(args)}
    if origin is dict:
        # In msgpack, keys are numbers where the field says so.
        names = {} if args[0] is str else {"propertyNames": {"pattern": "^-?[0-9]+$"}}
        return {"type": "object", "additionalProperties": _schema(args[1]), **names}
    if origin in (Union, types.UnionType):
        return {
            "anyOf": [_schema(arg) for arg in args if arg is not types.NoneType]
            + [{"type": "null"}]
        }
    name: str = hint.__name__
    return reference(name) if is_wired(hint) else SCALARS[hint]


def kind(hint: Any) -> str:
    """What a value is, in words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is list:
        return f"list of {kind(args[0])}"
    if origin is tuple:
        return f"list of {' and '.join(map(kind, args))}"
    if origin is dict:
        return f"map of {kind(args[0])} to {kind(args[1])}"
    if origin in (Union, types.UnionType):
        return " or ".join("null" if arg is types.NoneType else kind(arg) for arg in args)
    name: str = hint.__name__
    return f"[{name}](#{name.lower()})" if is_wired(hint) else name


def _classes(hint: Any) -> Iterator[type[Wired]]:
    if is_wired(hint):
        yield hint
    for arg in get_args(hint):
        yield from _classes(arg)


def is_wired(hint: Any) -> bool:
    """Whether it is a class of values that travel together."""
    return isinstance(hint, type) and issubclass(hint, Wired)


def default_of(field: Field) -> Any:
    """MISSING where there is none."""
    value = field.default if field.default_factory is MISSING else field.default_factory()
    return {f.name: default_of(f) for f in fields(value)} if isinstance(value, Wired) else value


def text_of(told: Any) -> str:
    """Its docstring, in one line."""
    return " ".join((inspect.getdoc(told) or "").split())


def notes_of(cls: type) -> dict[str, str]:
    """The texts below fields, by name."""
    (tree,) = ast.parse(dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for above, node in zip(tree.body, tree.body[1:], strict=False):
        match above, node:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(value=ast.Constant(str(text))):
                found[name] = " ".join(text.split())
    return found


def reference(name: str) -> Json:
    """To a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}
