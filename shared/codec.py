"""Messages to msgpack bytes and back. Strict both ways: what it lets through is typed as declared.

The wire form is a map {"v": version, "type": class name, "body": fields}, and "trace" where the
sender's work is traced (tracing.py). Checks are compiled once from the dataclass annotations. Knows
no bus and no service. `pack` and `unpack` are for those who are not on the bus, and know of no
message.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgpack

from shared.errors import MalformedError, OversizeError
from shared.messages import MESSAGES
from shared.tracing import current, is_traceparent

SCHEMA_VERSION = 1
MAX_MESSAGE_BYTES = 8 * 1024 * 1024

_PLAIN = {type(None), bool, int, float, str, bytes, list, dict}

Reader = Callable[[Any], Any]
Writer = Callable[[Any], Any]


def encode(message: object) -> bytes:
    """Raises OversizeError beyond MAX_MESSAGE_BYTES, MalformedError for a value that the wire
    cannot carry (integers beyond 64 bits, lone surrogates), TypeError for what is no message."""
    name = type(message).__name__
    if name not in _WRITERS:
        raise TypeError(f"{name} is not a registered message")
    envelope = {"v": SCHEMA_VERSION, "type": name, "body": _WRITERS[name](message)}
    if (trace := current().traceparent) is not None:
        envelope["trace"] = trace
    try:
        data: bytes = msgpack.packb(envelope)
    except (OverflowError, UnicodeEncodeError) as error:
        raise MalformedError(f"{name} cannot be encoded: {error}") from error
    if len(data) > MAX_MESSAGE_BYTES:
        raise OversizeError(f"{name} of {len(data)} bytes; the limit is {MAX_MESSAGE_BYTES}")
    return data


def decode(data: bytes) -> object:
    """Raises OversizeError or MalformedError, which names the first thing that is wrong."""
    return decode_traced(data)[0]


def decode_traced(data: bytes) -> tuple[object, str | None]:
    """Likewise, and the traceparent of its sender's work, if that is traced."""
    envelope = _unpacked(data)
    if not isinstance(envelope, dict) or envelope.keys() | {"trace"} != _ENVELOPE:
        raise MalformedError("not a message: expected a map of v, type and body")
    version = _VERSION(envelope["v"])
    if version != SCHEMA_VERSION:
        raise MalformedError(f"schema version {version}; this build reads {SCHEMA_VERSION}")
    name = _TYPE(envelope["type"])
    if name not in _READERS:
        raise MalformedError(f"unknown message type {_shown(name)}")
    trace = _TRACE(envelope["trace"]) if "trace" in envelope else None
    if trace is not None and not is_traceparent(trace):
        raise MalformedError("trace is not a traceparent of version 00")
    return _READERS[name](envelope["body"]), trace


def pack(value: object) -> bytes:
    """Plain values (`unpack`) as msgpack."""
    data: bytes = msgpack.packb(value)
    return data


def unpack(data: bytes) -> object:
    """A stranger's msgpack: null, booleans, numbers, text, bytes, lists, and maps whose keys are
    text. Raises OversizeError beyond MAX_MESSAGE_BYTES, MalformedError for anything else."""
    value = _unpacked(data)
    waiting: list[list[object]] = [[value]]
    while waiting:
        values = waiting.pop()
        # Of long lists of numbers: one pass in C instead of a look at each.
        kinds = set(map(type, values))
        if strange := kinds - _PLAIN:
            raise MalformedError(f"msgpack holds {min(kind.__name__ for kind in strange)}")
        if kinds & {list, dict}:
            waiting += [inner for inner in values if isinstance(inner, list)]
            waiting += [_values(inner) for inner in values if isinstance(inner, dict)]
    return value


def _values(given: dict[object, object]) -> list[object]:
    for key in given:
        if not isinstance(key, str):
            raise MalformedError(f"a key of a map is {type(key).__name__}, expected str")
    return list(given.values())


def _unpacked(data: bytes) -> object:
    if len(data) > MAX_MESSAGE_BYTES:
        raise OversizeError(f"message of {len(data)} bytes; the limit is {MAX_MESSAGE_BYTES}")
    try:
        value: object = msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        # TypeError: a map with a list or a map for its key.
        raise MalformedError(f"not msgpack: {error}") from error
    return value


def _shown(text: str) -> str:
    """A stranger's text, short enough for a log line."""
    return repr(text if len(text) <= 40 else text[:40] + "...")


def _scalar(expected: type, where: str) -> Reader:
    def read(value: Any) -> Any:
        if expected is float and type(value) is int:
            return float(value)
        if type(value) is not expected:
            raise MalformedError(f"{where} is {type(value).__name__}, expected {expected.__name__}")
        return value

    return read


def _list(item: Reader, where: str) -> Reader:
    def read(value: Any) -> Any:
        if type(value) is not list:
            raise MalformedError(f"{where} is {type(value).__name__}, expected list")
        return [item(v) for v in value]

    return read


def _scalars(expected: type, where: str) -> Reader:
    read_each = _list(_scalar(expected, where), where)

    def read(value: Any) -> Any:
        # Tokens and scores are the bulk of the traffic: one pass in C, not a call for each.
        if type(value) is list and not set(map(type, value)) - {expected}:
            return value
        return read_each(value)

    return read


def _tuple(items: tuple[Reader, ...], where: str) -> Reader:
    def read(value: Any) -> Any:
        if type(value) is not list or len(value) != len(items):
            raise MalformedError(f"{where} is not a list of {len(items)} values")
        return tuple(item(v) for item, v in zip(items, value, strict=True))

    return read


def _dict(key: Reader, item: Reader, where: str) -> Reader:
    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise MalformedError(f"{where} is {type(value).__name__}, expected map")
        return {key(k): item(v) for k, v in value.items()}

    return read


def _optional(inner: Reader) -> Reader:
    return lambda value: None if value is None else inner(value)


def _dataclass(cls: Any, where: str) -> Reader:
    hints = get_type_hints(cls)
    readers = {f.name: _reader(hints[f.name], f"{where}.{f.name}") for f in fields(cls)}
    required = {f.name for f in fields(cls) if not _has_default(f)}
    in_order = list(readers.items())

    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise MalformedError(f"{where} is {type(value).__name__}, expected map")
        if value.keys() == readers.keys():
            return cls(*[read_field(value[name]) for name, read_field in in_order])
        if not required <= value.keys() <= readers.keys():
            if missing := required - value.keys():
                raise MalformedError(f"{where} lacks {', '.join(sorted(missing))}")
            if unknown := value.keys() - readers.keys():
                raise MalformedError(f"{where} has unknown {_shown(min(map(str, unknown)))}")
        return cls(**{name: readers[name](v) for name, v in value.items()})

    return read


def _reader(hint: Any, where: str) -> Reader:
    origin, args = get_origin(hint), get_args(hint)
    if origin is list and args[0] in (int, float, str):
        return _scalars(args[0], where)
    if origin is list:
        return _list(_reader(args[0], where), where)
    if origin is tuple:
        return _tuple(tuple(_reader(a, where) for a in args), where)
    if origin is dict:
        return _dict(_reader(args[0], where), _reader(args[1], where), where)
    if origin in (Union, types.UnionType):
        return _optional(_reader(_some(args), where))
    if is_dataclass(hint):
        return _dataclass(hint, where)
    return _scalar(hint, where)


def _writer(hint: Any) -> Writer | None:
    """None where a value is on the wire as it is."""
    origin, args = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return _dataclass_writer(hint)
    if origin not in (list, dict, Union, types.UnionType):
        return None
    inner = _writer(_some(args) if origin not in (list, dict) else args[-1])
    if inner is None:
        return None
    if origin is list:
        return lambda value: [inner(v) for v in value]
    if origin is dict:
        return lambda value: {key: inner(v) for key, v in value.items()}
    return lambda value: None if value is None else inner(value)


def _dataclass_writer(cls: Any) -> Writer:
    hints = get_type_hints(cls)
    always = [(f.name, _writer(hints[f.name])) for f in fields(cls) if not _has_default(f)]
    sometimes = [
        (
            f.name,
            _writer(hints[f.name]),
            f.default if f.default_factory is MISSING else f.default_factory(),
        )
        for f in fields(cls)
        if _has_default(f)
    ]

    def write_fields(value: Any) -> dict[str, Any]:
        told = {
            name: getattr(value, name) if write is None else write(getattr(value, name))
            for name, write in always
        }
        # A field that older processes do not know reaches them only where it says something.
        for name, write, default in sometimes:
            if (own := getattr(value, name)) != default:
                told[name] = own if write is None else write(own)
        return told

    return write_fields


def _has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _some(args: tuple[Any, ...]) -> Any:
    """Of `X | None`, X."""
    (inner,) = (a for a in args if a is not type(None))
    return inner


_ENVELOPE = {"v", "type", "body", "trace"}
_VERSION, _TYPE, _TRACE = _scalar(int, "v"), _scalar(str, "type"), _scalar(str, "trace")
_READERS: dict[str, Reader] = {cls.__name__: _dataclass(cls, cls.__name__) for cls in MESSAGES}
_WRITERS: dict[str, Writer] = {
    cls.__name__: write for cls in MESSAGES if (write := _writer(cls)) is not None
}
