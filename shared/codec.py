"""Messages to msgpack bytes and back. Strict both ways: what it lets through is typed as declared.

The wire form is a map {"v": version, "type": class name, "body": fields}, and "trace" where the
sender's work is traced (tracing.py). Knows no bus and no service. `pack` and `unpack` are for those
who are not on the bus, and know of no message.
"""

from __future__ import annotations

import msgpack
from msgspec import UNSET, DecodeError, Raw, Struct, UnsetType, ValidationError
from msgspec.msgpack import Decoder, Encoder

from shared.errors import MalformedError, OversizeError
from shared.messages import MESSAGES
from shared.tracing import current, is_traceparent

SCHEMA_VERSION = 1
MAX_MESSAGE_BYTES = 8 * 1024 * 1024

_PLAIN = {type(None), bool, int, float, str, bytes, list, dict}
_LONGEST_TEXT = 96
"""Of what is said against a stranger's bytes: a log line."""


class _Envelope(Struct, forbid_unknown_fields=True):
    v: int
    type: str
    body: Raw
    trace: str | UnsetType = UNSET


_ENCODER = Encoder()
_OPENER = Decoder(_Envelope)
_READERS: dict[str, Decoder[object]] = {cls.__name__: Decoder(cls) for cls in MESSAGES}


def encode(message: object) -> bytes:
    """Raises OversizeError beyond MAX_MESSAGE_BYTES, MalformedError for a value that the wire
    cannot carry (integers beyond 64 bits, lone surrogates), TypeError for what is no message."""
    name = type(message).__name__
    if name not in _READERS:
        raise TypeError(f"{name} is not a registered message")
    envelope = {"v": SCHEMA_VERSION, "type": name, "body": message}
    if (trace := current().traceparent) is not None:
        envelope["trace"] = trace
    try:
        data = _ENCODER.encode(envelope)
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
    _bounded(data)
    try:
        envelope = _OPENER.decode(data)
    except ValidationError as error:
        raise MalformedError(_shown(f"not a message: {error}")) from error
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"not msgpack: {error}") from error
    name = envelope.type
    if envelope.v != SCHEMA_VERSION:
        raise MalformedError(f"schema version {envelope.v}; this build reads {SCHEMA_VERSION}")
    if name not in _READERS:
        raise MalformedError(_shown(f"unknown message type {name!r}"))
    trace = None if envelope.trace is UNSET else envelope.trace
    if trace is not None and not is_traceparent(trace):
        raise MalformedError("trace is not a traceparent of version 00")
    try:
        return _READERS[name].decode(envelope.body), trace
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(_shown(f"{name}: {error}")) from error


def pack(value: object) -> bytes:
    """Plain values (`unpack`) as msgpack."""
    data: bytes = msgpack.packb(value)
    return data


def unpack(data: bytes) -> object:
    """A stranger's msgpack: null, booleans, numbers, text, bytes, lists, and maps whose keys are
    text. Raises OversizeError beyond MAX_MESSAGE_BYTES, MalformedError for anything else."""
    _bounded(data)
    try:
        value: object = msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        # TypeError: a map with a list or a map for its key.
        raise MalformedError(f"not msgpack: {error}") from error
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


def _bounded(data: bytes) -> None:
    if len(data) > MAX_MESSAGE_BYTES:
        raise OversizeError(f"message of {len(data)} bytes; the limit is {MAX_MESSAGE_BYTES}")


def _shown(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "..."
