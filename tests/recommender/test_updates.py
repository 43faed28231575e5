"""A row that is written is read by every lookup from then on, wherever its table is stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.recommender.folder import load_model
from services.recommender.planner.profiles import U280
from services.recommender.planning import Limits
from services.recommender.program import ELEMENTS, Element
from services.recommender.query import Query
from services.recommender.restructure import read_source, restructure
from services.recommender.sorting import Counts
from services.recommender.updates import Rows
from shared.errors import InvalidRequestError
from tests.recommender.test_restructure import DIMS, ROWS, write

READERS = {"user2": "user", "item2": "item"}
FIELDS = ["age", "city", "sex", "user", "item"]
FORCED = Limits(max_growth=60.0, multiply=(("age", "item"), ("sex", "city", "user")))


@pytest.fixture(scope="module", params=["joined", "multiplied", "sorted"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("updates")
    write(path / "s")
    limits = Limits(max_growth=0.0) if request.param == "joined" else FORCED
    counts = {"user": np.arange(40), "age": np.array([3, 1, 4, 1, 5])}
    restructure(
        *(read_source(path / "s"), path / "m", U280, limits, lambda share, what: None),
        Counts(counts if request.param == "sorted" else {}, 0),
    )
    return path


WRITES = st.lists(
    st.sampled_from(sorted(ROWS)).flatmap(
        lambda name: st.tuples(
            st.just(name), st.lists(st.integers(0, ROWS[name] - 1), min_size=1, max_size=6)
        )
    ),
    max_size=8,
)


@settings(max_examples=30, deadline=None)
@given(WRITES, st.integers(0, 2**32))
def test_lookups_read_what_was_written_last(
    folder: Path, writes: list[tuple[str, list[int]]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    model = load_model(folder / "m", slice_rows=64, num_threads=1)
    rows = Rows(model.layout, model.engine.arena.bytes)
    tables = {name: np.load(folder / "s" / f"{name}.npy") for name in ROWS}
    for name, ids in writes:
        values = rng.standard_normal((len(ids), DIMS[name]), np.float32)
        rows.check(name, np.array(ids), values)
        rows.write(name, np.array(ids), values)
        for number, vector in zip(ids, values, strict=True):
            tables[name][number] = vector
    ids = np.stack([rng.integers(0, ROWS[name], 60) for name in FIELDS], axis=1)
    found = model.engine.inputs(Query(60, [(slice(0, 5), ids)]))["features"]
    parts = [tables[n][ids[:, FIELDS.index(READERS.get(n, n))]] for n in ROWS]
    assert found.tobytes() == np.concatenate(parts, axis=1).tobytes()


def test_a_file_that_is_mapped_stays_as_it_is(folder: Path) -> None:
    before = (folder / "m" / "arena.bin").read_bytes()
    first, second = (load_model(folder / "m", slice_rows=8, num_threads=1) for _ in range(2))
    Rows(first.layout, first.engine.arena.bytes).write(
        "item", np.arange(90), np.ones((90, 16), np.float32)
    )
    assert (folder / "m" / "arena.bin").read_bytes() == before
    assert first.engine.arena.bytes.tobytes() != before
    assert second.engine.arena.bytes.tobytes() == before


@pytest.mark.parametrize("element", ELEMENTS)
def test_rows_are_written_in_the_type_that_they_are_stored_in(
    element: Element, tmp_path: Path
) -> None:
    write(tmp_path / "s")
    limits = Limits(element, max_growth=4.0)
    restructure(read_source(tmp_path / "s"), tmp_path / "m", U280, limits, lambda share, what: None)
    model = load_model(tmp_path / "m", slice_rows=64, num_threads=1)
    values = np.linspace(-1, 1, 16, dtype=np.float32)[None]
    Rows(model.layout, model.engine.arena.bytes).write("item", np.array([7]), values)
    ids = np.array([[0, 0, 0, 0, 7]])
    place = sum(DIMS[n] for n in ("age", "city", "sex", "user", "user2"))
    found = model.engine.inputs(Query(1, [(slice(0, 5), ids)]))["features"][0, place : place + 16]
    np.testing.assert_allclose(
        found, values[0], atol={"fp32": 0, "fp16": 5e-4, "int8": 4e-3}[element]
    )


@pytest.mark.parametrize(
    ("table", "rows", "values", "sentence"),
    [
        ("colour", [1], np.zeros((1, 3)), "no table 'colour'; this model has age, city"),
        ("age", [1, 2], np.zeros((1, 3)), r"values are \[1, 3\]; table age takes \[2, 3\]"),
        ("age", [1], np.zeros((1, 4)), r"takes \[1, 3\]"),
        ("age", [5], np.zeros((1, 3)), "row 5 of table age, which has rows 0 to 4"),
        ("age", [-1], np.zeros((1, 3)), "row -1"),
        ("age", [1], np.full((1, 3), np.nan), "must be finite"),
    ],
)
def test_what_cannot_be_written_is_refused(
    folder: Path, table: str, rows: list[int], values: np.ndarray, sentence: str
) -> None:
    model = load_model(folder / "m", slice_rows=8, num_threads=1)
    writer = Rows(model.layout, model.engine.arena.bytes)
    with pytest.raises(InvalidRequestError, match=sentence):
        writer.check(table, np.array(rows), values.astype(np.float32))
