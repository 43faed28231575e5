"""The codec lets through what the annotations declare, and refuses the rest by name."""

from __future__ import annotations

import contextlib
import math
import types
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgpack
import pytest
from hypothesis import example, find, given
from hypothesis import strategies as st

from shared.codec import MAX_MESSAGE_BYTES, SCHEMA_VERSION, decode, encode, pack, unpack
from shared.errors import MalformedError, MessageError, OversizeError
from shared.generation import Sampling
from shared.messages import MESSAGES, Cancel, Failed, GenerateRequest, Scores
from shared.tensor_messages import ScoreRequest, Tensor
from shared.wire import MISSING, Wired, fields
from shared.wire_schemas import parts

INT64 = st.integers(-(2**63), 2**64 - 1)
SCALARS: dict[object, st.SearchStrategy[Any]] = {
    int: INT64,
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    str: st.text(max_size=8),
    bytes: st.binary(max_size=8),
}


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Values of an annotation, as a message may hold them."""
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and issubclass(hint, Wired):
        hints = get_type_hints(hint)
        return st.builds(hint, **{f.name: values_of(hints[f.name]) for f in fields(hint)})
    if origin is list:
        return st.lists(values_of(args[0]), max_size=4)
    if origin is tuple:
        return st.tuples(*map(values_of, args))
    if origin is dict:
        return st.dictionaries(values_of(args[0]), values_of(args[1]), max_size=3)
    if origin in (Union, types.UnionType):
        return st.one_of(*(values_of(a) for a in args))
    return st.none() if hint is type(None) else SCALARS[hint]


ANY_MESSAGE = st.one_of(*(values_of(cls) for cls in MESSAGES))
PLAIN = st.recursive(
    st.none() | st.booleans() | INT64 | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | INT64, inner, max_size=3)
    ),
    max_leaves=5,
)
TEXT_KEYED = st.recursive(
    st.none() | st.booleans() | INT64 | st.floats(allow_nan=False) | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)  # fmt: skip
REQUEST = GenerateRequest("r", "gateway.1", [1, 2], 8, Sampling(logit_bias={3: 0.5}), [0], 1.5)


def envelope(message: Wired, /, **changes: object) -> dict[str, Any]:
    """The wire form of a message, with fields of its body replaced."""
    wire: dict[str, Any] = msgpack.unpackb(encode(message), strict_map_key=False)
    wire["body"].update(changes)
    return wire


def refusal(wire: object) -> str:
    """What is said against a wire form."""
    with pytest.raises(MalformedError) as refused:
        decode(msgpack.packb(wire))
    return str(refused.value)


def decodes_or_is_refused(data: bytes) -> None:
    with contextlib.suppress(MessageError):
        assert type(decode(data)) in MESSAGES


@given(ANY_MESSAGE)
def test_every_message_survives_the_wire(message: object) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize("cls", MESSAGES)
def test_every_registered_message_has_a_wire_form(cls: type) -> None:
    @given(values_of(cls))
    def check(message: object) -> None:
        back = decode(encode(message))
        assert type(back) is cls
        assert back == message

    check()


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xc1")
@example(b"\x81\x90\x01")  # a map with a list for its key
@example(b"\xd6\xff\x00\x00\x00\x00")  # a timestamp
def test_random_bytes_raise_nothing_but_message_errors(data: bytes) -> None:
    with pytest.raises(MessageError):
        decode(data)


@given(ANY_MESSAGE, st.data())
def test_mutated_bytes_decode_to_a_message_or_are_refused(message: object, data: Any) -> None:
    mutated = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    decodes_or_is_refused(bytes(mutated[: data.draw(st.integers(0, len(mutated)))]))
    decodes_or_is_refused(bytes(mutated))


@given(ANY_MESSAGE, st.data())
def test_a_field_replaced_by_anything_decodes_or_is_refused(message: object, data: Any) -> None:
    name = data.draw(st.sampled_from([f.name for f in fields(message)]))
    decodes_or_is_refused(msgpack.packb(envelope(message, **{name: data.draw(PLAIN)})))


@given(st.dictionaries(st.sampled_from(["v", "type", "body", "more"]), PLAIN))
def test_any_envelope_that_is_not_ours_is_refused(wire: dict[str, object]) -> None:
    refusal(wire)


def test_an_integer_serves_where_a_float_is_declared() -> None:
    message = decode(msgpack.packb(envelope(REQUEST, deadline=7)))
    assert isinstance(message, GenerateRequest)
    assert message.deadline == 7.0
    assert type(message.deadline) is float


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_tokens": True}, "GenerateRequest: Expected `int`, got `bool` - at `$.max_tokens`"),
        ({"max_tokens": 1.0}, "Expected `int`, got `float` - at `$.max_tokens`"),
        ({"deadline": False}, "Expected `float`, got `bool` - at `$.deadline`"),
        ({"prompt": [1, True]}, "Expected `int`, got `bool` - at `$.prompt[1]`"),
        ({"prompt": "12"}, "Expected `array`, got `str` - at `$.prompt`"),
        ({"request_id": b"r"}, "Expected `str`, got `bytes` - at `$.request_id`"),
        ({"request_id": None}, "Expected `str`, got `None` - at `$.request_id`"),
        ({"sampling": []}, "Expected `object`, got `array` - at `$.sampling`"),
        ({"sampling": {"seed": True}}, "Expected `int`, got `bool` - at `$.sampling.seed`"),
        (
            {"sampling": {"logit_bias": {"3": 1.0}}},
            "Expected `int`, got `str` - at `key` in `$.sampling.logit_bias`",
        ),
    ],
)
def test_a_wrongly_typed_field_is_named(change: dict[str, object], said: str) -> None:
    assert said in refusal(envelope(REQUEST, **change))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([], "ScoreRequest: Expected `object`, got `array` - at `$.inputs`"),
        ({1: {}}, "Expected `str`, got `int` - at `key` in `$.inputs`"),
        ({"a": [1]}, "Expected `object`, got `array` - at `$.inputs[...]`"),
        (
            {"a": {"dtype": "int64", "shape": [1]}},
            "Object missing required field `data` - at `$.inputs[...]`",
        ),
        (
            {"a": {"dtype": "int64", "shape": [1], "data": "text"}},
            "Expected `bytes`, got `str` - at `$.inputs[...].data`",
        ),
        (
            {"a": {"dtype": "int64", "shape": [1.0], "data": b""}},
            "Expected `int`, got `float` - at `$.inputs[...].shape[0]`",
        ),
    ],
)
def test_what_is_wrong_in_a_tensor_is_named(inputs: object, said: str) -> None:
    sound = ScoreRequest("r", "i", {"a": Tensor("int64", [1], bytes(8))}, True, None, 0.0)
    assert said in refusal(envelope(sound, inputs=inputs))


def test_missing_fields_take_their_defaults_where_they_have_one() -> None:
    wire = envelope(REQUEST, sampling={"seed": 4})
    message = decode(msgpack.packb(wire))
    assert isinstance(message, GenerateRequest)
    assert message.sampling == Sampling(seed=4)
    wire = envelope(Failed("r", "c", "m", "p"))
    del wire["body"]["param"]
    assert decode(msgpack.packb(wire)) == Failed("r", "c", "m")


@pytest.mark.parametrize("cls", MESSAGES)
def test_a_field_that_says_nothing_is_not_told(cls: type) -> None:
    """An older process, which may not know it, understands the rest."""
    hints = get_type_hints(cls)
    needed = [f for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    message = cls(**{f.name: find(values_of(hints[f.name]), lambda _: True) for f in needed})
    assert envelope(message)["body"].keys() == {f.name for f in needed}


def test_defaults_are_told_by_sight() -> None:
    """But for the fractions of classes that every version knows whole."""
    known = {"Sampling", "Times"}
    fractions = {
        name
        for name, cls in parts().items()
        for field in fields(cls)
        if isinstance(field.default, float | str | bytes | tuple)
    }
    assert fractions == known


def test_a_missing_field_without_a_default_is_named() -> None:
    wire = envelope(REQUEST)
    del wire["body"]["deadline"]
    assert refusal(wire) == "GenerateRequest: Object missing required field `deadline`"


def test_an_unknown_field_is_named() -> None:
    assert "Cancel: Object contains unknown field `zeal`" in refusal(envelope(Cancel("r"), zeal=1))


def test_an_unknown_type_is_named_and_not_in_full_where_it_is_long() -> None:
    assert refusal({"v": SCHEMA_VERSION, "type": "Os", "body": {}}).endswith("type 'Os'")
    assert len(refusal({"v": SCHEMA_VERSION, "type": "x" * 100_000, "body": {}})) < 100
    assert len(refusal(envelope(Cancel("r"), **{"x" * 100_000: 1}))) < 100


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1, True, 1.0, "1", None, [1]])
def test_another_schema_version_is_refused(version: object) -> None:
    refusal({**envelope(Cancel("r")), "v": version})


def test_what_is_no_message_is_not_encoded() -> None:
    for other in (Sampling(), "text", None):
        with pytest.raises(TypeError, match="not a registered message"):
            encode(other)


def test_oversize_is_refused_both_ways() -> None:
    overhead = len(encode(Cancel("x" * (1 << 16)))) - (1 << 16)
    largest = Cancel("x" * (MAX_MESSAGE_BYTES - overhead))
    data = encode(largest)
    assert len(data) == MAX_MESSAGE_BYTES
    assert decode(data) == largest
    with pytest.raises(OversizeError, match=f"limit is {MAX_MESSAGE_BYTES}"):
        encode(Cancel(largest.request_id + "x"))
    with pytest.raises(OversizeError, match=f"limit is {MAX_MESSAGE_BYTES}"):
        decode(data + b"x")


@pytest.mark.parametrize("depth", [10, 900, 1010, 5000, 1_000_000])
@pytest.mark.parametrize("key", ["v", "type", "body"])
def test_deep_nesting_is_refused(depth: int, key: str) -> None:
    parts = {name: msgpack.packb(value) for name, value in envelope(Cancel("r")).items()}
    for opening in (b"\x91", b"\x81\xa1x"):
        parts[key] = opening * depth + b"\x01"
        with pytest.raises(MalformedError):
            decode(b"\x83" + b"".join(msgpack.packb(name) + part for name, part in parts.items()))


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30])
def test_an_integer_beyond_64_bits_cannot_be_sent_and_the_message_is_named(number: int) -> None:
    with pytest.raises(MalformedError, match="GenerateRequest cannot be encoded"):
        encode(GenerateRequest("r", "i", [number], 1, Sampling(), [], 0.0))


def test_a_lone_surrogate_cannot_be_sent_and_the_message_is_named() -> None:
    with pytest.raises(MalformedError, match="Cancel cannot be encoded"):
        encode(Cancel("\ud800"))


def test_infinite_and_undefined_numbers_travel_as_they_are() -> None:
    scores = decode(encode(Scores("r", ["a"] * 3, [math.inf, -math.inf, math.nan], 0, "1")))
    assert isinstance(scores, Scores)
    assert scores.scores[:2] == [math.inf, -math.inf]
    assert math.isnan(scores.scores[2])


@given(TEXT_KEYED)
def test_what_strangers_may_send_comes_back_as_it_was(value: object) -> None:
    assert unpack(pack(value)) == value


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not msgpack"),
        (b"\xc1", "not msgpack"),
        (b"\x93\x01", "not msgpack"),
        (b"\x01\x02", "not msgpack"),
        (b"\xa1\xff", "not msgpack"),
        (b"\x91" * 5000 + b"\x01", "not msgpack"),
        (b"\x91\xd4\x05\x00", "msgpack holds ExtType"),
        (b"\x81\xa1a\x91\xd6\xff\x00\x00\x00\x00", "msgpack holds Timestamp"),
        (b"\x91\x81\x01\x02", "a key of a map is int, expected str"),
        (b"\x81\xa1a\x81\xc4\x01a\x02", "a key of a map is bytes, expected str"),
        (b"\x81\x90\x01", "not msgpack"),
    ],
)
def test_a_strangers_msgpack_is_plain_or_refused(data: bytes, said: str) -> None:
    with pytest.raises(MalformedError, match=said):
        unpack(data)


@given(st.binary(max_size=200))
def test_random_bytes_unpack_or_are_refused(data: bytes) -> None:
    with contextlib.suppress(MessageError):
        unpack(data)


def test_a_strangers_msgpack_is_bounded() -> None:
    with pytest.raises(OversizeError, match=f"limit is {MAX_MESSAGE_BYTES}"):
        unpack(bytes(MAX_MESSAGE_BYTES + 1))
