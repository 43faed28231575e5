"""Hostile requests: what strangers send. The same in each run."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from msgpack import packb

from services.gateway.options import Body
from services.gateway.recommendation.inference import HEADER
from services.gateway.schemas import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    RecommendBody,
    RowsBody,
    TokenizeBody,
    check,
)
from shared.errors import InvalidRequestError
from tests.gateway.house import MSGPACK, NUM_PRICES

JSON = "application/json"
COMPLETIONS, CHATS, TOKENIZE, DETOKENIZE = (
    "/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize",
)  # fmt: skip
SCORES, ROWS, INFER = (
    "/v1/recommendations", "/v1/recommenders/shop/rows", "/v2/models/shop/infer",
)  # fmt: skip
HELLO = {"role": "user", "content": "Hello"}
INPUTS = {"user": [[1]], "item": [[2]], "prices": [[0.5] * NUM_PRICES]}
TENSORS: list[dict[str, object]] = [
    {"name": "user", "datatype": "INT64", "shape": [1, 1], "data": [1]},
    {"name": "item", "datatype": "INT64", "shape": [1, 1], "data": [2]},
    {"name": "prices", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 0]},
]
GOOD: dict[str, tuple[type[Body] | None, dict[str, object]]] = {
    COMPLETIONS: (CompletionBody, {"prompt": "x", "max_tokens": 4}),
    CHATS: (ChatBody, {"messages": [HELLO], "max_tokens": 4}),
    TOKENIZE: (TokenizeBody, {"prompt": "x"}),
    DETOKENIZE: (DetokenizeBody, {"tokens": [40]}),
    SCORES: (RecommendBody, {"inputs": INPUTS}),
    ROWS: (RowsBody, {"table": "item", "rows": [1], "values": [[0.5, 0.5]]}),
    INFER: (
        None,
        {"inputs": TENSORS},
    ),
}
NESTED: object = 1
for _ in range(60):
    NESTED = [NESTED]
STRANGE: list[object] = [
    True, -1, 0, 1 << 31, 1 << 63, 1 << 64, 10**400, -(10**400), 0.5, -1.5e300, "", "x", "\0",
    "9" * 5000, "\u202e\ufeff{{7*7}}", [], {}, [None], [[]], [{}], {"": None}, {"a": {"b": []}},
    [1, "a"], ["x"] * 2000, [-1], [1 << 70], NESTED, {"$ref": "#"}, {"__class__": "x"},
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Attack:
    """A request as it goes over the wire. `field` is what the answer has to name; `is_legal` where
    it may turn out to be taken after all."""

    path: str
    body: bytes = b""
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    field: str | None = None
    is_legal: bool = False

    def raw(self) -> bytes:
        headers = {"Host": "x", "Content-Type": JSON, "Content-Length": str(len(self.body))}
        headers |= {"Connection": "close", **self.headers}
        lines = [f"{self.method} {self.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + self.body


def packed(body: object) -> bytes:
    return json.dumps(body).encode()


def broken(rng: random.Random, good: bytes) -> Iterator[bytes]:
    """Spoilt so that no reader of JSON can take it."""
    yield from _cut(rng, good)
    yield from _encoded(good)
    values = (b"NaN", b"Infinity", b"-Infinity", b"+1", b"01", b".5", b"1.", b"0x10", b"1e",
              b"None", b"undefined", b"True", b"'x'", b"`x`", b"{{7*7}}", b"<x/>")  # fmt: skip
    texts = (b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xc0\xaf",
             b"\\ud800", b"\\udc00\\ud800", b"\\u12", b"\\x41", b"\\", b"\n", b"\t")  # fmt: skip
    twice = (b'"timeout": 1, "timeout": 2', b'"x": {"a": 1, "a": 1}')
    for value in (*values, *(b'"%b"' % text for text in texts)):
        yield good[:-1] + b', "user": ' + value + b"}"
    for fields in twice:
        yield good[:-1] + b", " + fields + b"}"
    for depth in (500, 5_000, 100_000):
        yield from (b"[" * depth, b'{"a":' * depth, b"[" * depth + b"]" * depth)
        yield good[:-1] + b', "user": ' + b"[" * depth + b"]" * depth + b"}"
    yield from (b"", b" ", b"null", b"1", b'"x"', b"[]", b"[{}]", b"true", b"\x00", b"\x80\x81")


def _cut(rng: random.Random, good: bytes) -> Iterator[bytes]:
    for _ in range(30):
        place = rng.randrange(1, len(good))
        yield good[:place]
        yield good[:place] + bytes([rng.choice(b"\x00\x01\x08\x0b\x1f\x7f")]) * 2 + b'"' + good
        yield good + rng.choice([b"}", b"]", b",", b"{}", b"\x00", b"null", b"//", b'"'])
        yield good.replace(b":", rng.choice([b"=", b"::", b" ", b";", b":,"]), 1)


def _encoded(good: bytes) -> Iterator[bytes]:
    yield good.replace(b'"', b"'")
    yield b"\xef\xbb\xbf" * 2 + good
    for encoding in ("utf-16", "utf-32", "utf-7", "cp037"):
        yield b"\xfe" + good.decode().encode(encoding)


def wrong_types() -> Iterator[Attack]:
    """Each field of each body with each strange value, and what is left out."""
    for path, (cls, good) in GOOD.items():
        if cls is None:
            continue
        for name in [*cls.model_fields, "nothing", "__proto__", "\u202e"]:
            for value in STRANGE:
                body = {**good, name: value}
                try:
                    check(cls, body)
                except InvalidRequestError:
                    yield Attack(path, packed(body), field=json.dumps(name)[1:-1].split("\\")[0])
                else:
                    yield Attack(path, packed(body), is_legal=True)
        for name in good:
            yield Attack(path, packed({k: v for k, v in good.items() if k != name}), is_legal=True)


def inner_fields() -> Iterator[Attack]:
    """Likewise, within the fields that have parts."""
    for value in STRANGE:
        for body in _messages(value):
            yield Attack(CHATS, packed(body), is_legal=True)
        for options in ("speculation", "response_format", "structured_outputs", "stream_options"):
            for name in ("mode", "length", "type", "json_schema", "regex", "choice", "grammar"):
                body = {**GOOD[CHATS][1], options: {name: value}}
                yield Attack(CHATS, packed(body), is_legal=True)
        for name in INPUTS:
            yield Attack(SCORES, packed({"inputs": {**INPUTS, name: value}}), is_legal=True)
            yield Attack(SCORES, packed({"inputs": {**INPUTS, name: [value]}}), is_legal=True)
        for name in ("name", "datatype", "shape", "data", "parameters", "x"):
            yield Attack(INFER, packed(_inference(0, **{name: value})), is_legal=True)
        for name in ("id", "parameters", "inputs", "outputs", "x"):
            yield Attack(INFER, packed({**GOOD[INFER][1], name: value}), is_legal=True)


def _messages(value: object) -> Iterator[dict[str, object]]:
    for name in ("role", "content", "name", "tool_calls", "x"):
        yield {"messages": [{**HELLO, name: value}]}
    yield {"messages": [value]}
    for part in ({"type": "text", "text": value}, {"type": value, "text": "x"}):
        yield {"messages": [{"role": "user", "content": [part]}]}


def paths() -> Iterator[Attack]:
    tricks = [
        "/..", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd",
        "/v1/%2e%2e/%2e%2e/proc/self/environ", "/static/../config.py", "/static/console/../../x",
        "/static/docs/%2e%2e%2fservice.py", "/static/docs/..%5cservice.py", "/static//etc/passwd",
        "/%00", "/v1/models/%00", "/v1/completions%00", "/v1/completions/", "//v1/completions",
        "/v1/models/%ff%fe", "/v1/models/%c0%af", "/v1/models/%u0041", "/v1/models/%", "/%zz",
        "/v1/models/" + "a" * 6000, "/" + "a/" * 3000, "/v1/models/" + "%41" * 2000,
        "/v1/models/..;/metrics", "/v1/recommenders/../plan", "/v1/recommenders/%2e%2e/plan",
        "/v2/models/%2e%2e/ready", "/v2/models/shop/versions/%2e%2e/infer", "/v2/models//infer",
        "/v2/models/shop/versions/9/infer", "/v1/recommenders/{{7*7}}/plan", "/${jndi:ldap://x}",
        "/v1/requests/../../metrics", "/.git/config", "/.env", "/admin", "/index.php?x=1",
        "/v1/completions;x=1", "/V1/COMPLETIONS", "/v1/completions%20", "/v1/com%70letion",
    ]  # fmt: skip
    for path in tricks:
        for method in ("GET", "POST", "PUT", "DELETE"):
            yield Attack(path, method=method, is_legal=method == "GET" and path == "/%")
    for path in GOOD:
        for method in ("GET", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "X" * 20):
            yield Attack(path, method=method)


def headers() -> Iterator[Attack]:
    """Too many, too long, with what may not be in one, or with values that mean nothing."""
    good = packed(GOOD[COMPLETIONS][1])
    yield from (Attack(COMPLETIONS, good, headers=each) for each in _of_completions())
    yield Attack(COMPLETIONS + "?" + "x" * 100_000, good)
    for timeout in ("0", "-1", "nan", "inf", "1e999", "soon", "", "1 2", "\u0661x"):
        for path in (COMPLETIONS, SCORES, INFER):
            said = {"X-Request-Timeout": timeout}
            yield Attack(path, packed(GOOD[path][1]), headers=said, field="X-Request-Timeout")
    for length in ("-1", "1e3", "abc", "9" * 20, "", "999999", "1.5", "0x1", "1,2", "\u0661"):
        yield Attack(INFER, packed(GOOD[INFER][1]), headers={HEADER: length}, field=HEADER)
    for name in ("../x", "x" * 5000, "a b", "<script>", "\u00ff", "x;y", "{{7*7}}"):
        yield Attack("/v1/requests/1", method="DELETE", headers={"x-request-id": name})
    for kind in ("text/html", "", "\u00ff", "multipart/form-data", "application/json; charset=x"):
        yield Attack(COMPLETIONS, b"\x00{\x00}", headers={"Content-Type": kind})
    bomb = gzip.compress(b'{"prompt": "' + b"x" * (64 << 20) + b'"}')
    for path in GOOD:
        for kind in (JSON, MSGPACK):
            said = {"Content-Encoding": "gzip", "Content-Type": kind}
            yield Attack(path, bomb, headers=said)


def _of_completions() -> Iterator[dict[str, str]]:
    yield {f"X-{number}": "x" for number in range(3000)}
    yield from ({"X-Long": "x" * 100_000}, {"X" * 100_000: "x"}, {"Cookie": "a=b; " * 20_000})
    for name in ("bad name", "bad\tname", "", "b\x00d", "(x)", "x{}"):
        yield {name: "x"}
    for value in ("x\x00y", "x\ry", "x\ny", "x\r\n y"):
        yield {"X-Value": value}
    for length in ("-1", "+5", "1e3", "0x10", "abc", "5, 6", "", " ", "9" * 30, "1_0", "\u0661"):
        yield {"Content-Length": length}
    for encoding in ("gzip", "identity, chunked, gzip", "xchunked", "chunked, identity", "\x0b"):
        yield {"Transfer-Encoding": encoding}
    for encoding in ("gzip", "deflate", "br", "zstd"):
        yield {"Content-Encoding": encoding}


def framings() -> Iterator[bytes]:
    """Not even HTTP, or two ways to read it."""
    start = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\n".encode()
    good = packed(GOOD[COMPLETIONS][1])
    chunked = start + b"Transfer-Encoding: chunked\r\n"
    yield start + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nxxxxxx"
    yield chunked + b"Content-Length: 5\r\n\r\n0\r\n\r\n"
    for size in (b"zz", b"-1", b"0x5", b"5_0", b"f" * 40, b"", b" ", b"1;" + b"x" * 20_000):
        yield chunked + b"\r\n" + size + b"\r\n" + good + b"\r\n0\r\n\r\n"
    yield chunked + b"\r\n5\r\nxxxxxxxxxx\r\n0\r\n\r\n"
    yield chunked + b"\r\n1\r\nx\n0\r\n\r\n" + b"\xff" * 100
    for line in (b"POST", b"POST /", b"GET / HTTP/9.9", b"GET / HTTP/1.1 x", b"GET  / HTTP/1.1",
                 b"\x00", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"GET http:// HTTP/1.1",
                 b"GET / HTTP/1.1\r\n folded: x", b"get / http/1.1", b"G\xc3\x89T / HTTP/1.1",
                 b"GET /\xff\xfe HTTP/1.1", b"GET / HTTP/1.1\r\nno colon", b"PRI * HTTP/2.0",
                 b"CONNECT x:1 HTTP/1.1", b"OPTIONS * HTTP/1.1"):  # fmt: skip
        yield line + b"\r\n\r\n"
    for end in (b"\n\n", b"\r\r", b"\n\r\n"):
        yield start.replace(b"\r\n", b"\n") + b"Content-Length: x" + end
    rng = random.Random(2)
    for size in (1, 10, 100, 1000, 10_000):
        for _ in range(6):
            yield bytes(rng.randrange(256) for _ in range(size)) + b"\r\n\r\n"


def binaries() -> Iterator[Attack]:
    """Spoilt msgpack, and bytes of tensors that do not fit what is said of them."""
    rng = random.Random(3)
    for path in (SCORES, ROWS):
        said = {"Content-Type": MSGPACK}
        yield from (Attack(path, data, headers=said) for data in _no_msgpack(rng, path))
        for data in _other_msgpack(rng, path):
            yield Attack(path, data, headers=said, is_legal=True)
        yield from (Attack(path, packb(body), headers=said) for body in _tensors(path))
    yield from _inferences()


def _no_msgpack(rng: random.Random, path: str) -> Iterator[bytes]:
    good = packb(GOOD[path][1])
    for _ in range(60):
        yield good[: rng.randrange(len(good))]
    yield from (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff",
                b"\xdb\xff\xff\xff\xff", b"\x91" * 100_000, b"\x81\x90\x90", b"\xc1",
                b"\xc7\x01\x05x", b"\xd6\xff\x00\x00\x00\x00", b"\xa2\xff\xfe",
                packb({1: 2}), packb({b"table": b"item"}), packb([]))  # fmt: skip


def _other_msgpack(rng: random.Random, path: str) -> Iterator[bytes]:
    good = packb(GOOD[path][1])
    for _ in range(60):
        spoilt = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            spoilt[rng.randrange(len(good))] = rng.randrange(256)
        yield bytes(spoilt)


def _tensors(path: str) -> Iterator[dict[str, object]]:
    for shape in ([-1], [1 << 40], [0], [1] * 9, [True], ["1"], "1", []):
        for kind in ("int64", "float32", "object", "int8", ""):
            tensor = {"dtype": kind, "shape": shape, "data": b"\x00" * 8}
            if path == ROWS:
                yield {**GOOD[ROWS][1], "rows": tensor, "values": tensor}
            else:
                yield {"inputs": {**INPUTS, "user": tensor}}


def _inferences() -> Iterator[Attack]:
    for size in (-1, 0, 1, 7, 9, 1 << 31, 1 << 70, "8", 1.5, None, True):
        for tail in (b"", b"\x00" * 8, b"\xff" * 100):
            head = packed(_inference(0, data=None, parameters={"binary_data_size": size}))
            yield Attack(INFER, head + tail + b"\x00", headers={HEADER: str(len(head))})
    for shape in ([-1, 1], [1 << 40, 1 << 40], [1], [], [1, 1, 1], [0, 1], [1, 1 << 62]):
        yield Attack(INFER, packed(_inference(0, shape=shape)), is_legal=shape == [1])
    head = packed(_inference(2, data=None, parameters={"binary_data_size": 16}))
    nan = b"\x00\x00\xc0\x7f" * 4
    yield Attack(INFER, head + nan, headers={HEADER: str(len(head))})


def _inference(number: int, **changes: object) -> dict[str, object]:
    """The good one with another input."""
    inputs = [dict(one) for one in TENSORS]
    inputs[number] |= changes
    return {"inputs": [{k: v for k, v in one.items() if v is not None} for one in inputs]}
