"""Names to rows: derivations, default rows, refusals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.recommender.features import (
    MAX_VALUES,
    NamedRows,
    NumberedRows,
    derive,
    read_context,
    rows_of,
)
from services.recommender.layout import Unknown, Values
from services.recommender.source import ContextField
from shared.errors import InvalidRequestError

WORDS = NamedRows(["a", "a.b", "c"], first=1)


def field(values: Values = "all", unknown: Unknown = "default", key: str = "k") -> ContextField:
    return ContextField("f", key, values, "sum", "t", "names.txt", unknown)


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("all", ["a.b.c", "d", "a.e"]),
        ("last", ["a.e"]),
        ("parents", ["a.b.c", "a.b", "a", "d", "a.e", "a"]),
        ("roots", ["a", "d"]),
    ],
)
def test_a_field_derives_what_it_looks_up(which: Values, expected: list[str]) -> None:
    assert derive(["a.b.c", "d", "a.e"], which) == expected
    assert derive([], which) == []


def test_an_unknown_name_reads_the_default_row() -> None:
    assert rows_of(field(), WORDS, ["c", "nowhere", "a"]) == [3, 0, 1]


def test_a_known_parent_stands_in_for_an_unknown_name() -> None:
    assert rows_of(field("parents"), WORDS, ["a.b.new"]) == [2, 1]
    assert rows_of(field("parents"), WORDS, ["new.b"]) == [0, 0]


def test_a_field_that_rejects_names_the_value() -> None:
    with pytest.raises(InvalidRequestError, match="nowhere") as caught:
        rows_of(field(unknown="reject"), WORDS, ["a", "nowhere"])
    assert caught.value.param == "context.k"


@given(st.text(max_size=12) | st.integers(-3, 12).map(str))
def test_a_numbered_row_is_found_by_its_decimal_digits_only(name: str) -> None:
    row = NumberedRows(10).row(name)
    if row is None:
        assert name not in map(str, range(10))
    else:
        assert int(name) == row
        assert 0 <= row < 10
        assert name.isascii()


def test_values_without_a_row_are_counted_once_however_many_fields_read_them() -> None:
    fields = [field(), field("last"), field("roots", key="other")]
    read = read_context(fields, [WORDS] * 3, {"k": ["a", "new"], "other": ["a.new"]})
    assert read.rows == [[1, 0], [0], [1]]
    assert read.num_unknown == 2


def test_a_key_that_is_left_out_has_no_values() -> None:
    assert read_context([field(), field("last")], [WORDS] * 2, {}).rows == [[], []]


def test_a_key_that_no_field_reads_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(InvalidRequestError, match=r"'colour'.*reads k") as caught:
        read_context([field()], [WORDS], {"colour": []})
    assert caught.value.param == "context.colour"


def test_too_many_values_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match=str(MAX_VALUES)):
        read_context([field()], [WORDS], {"k": ["a"] * (MAX_VALUES + 1)})
