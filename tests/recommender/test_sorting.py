"""However often ids are read, and whatever order their rows are stored in, scores stay the same."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.recommender.folder import load_model
from services.recommender.layout import Field, Lookup, contradictions
from services.recommender.model import Model
from services.recommender.planner.profiles import U280
from services.recommender.planning import Limits
from services.recommender.restructure import main, read_source, restructure
from services.recommender.sorting import Counts, by_frequency, orders_by_frequency, orders_in
from shared.errors import InvalidRequestError, ModelError
from tests.recommender.test_restructure import ROWS, write
from tests.recommender.toy import ITEMS, NUM_ROWS, PLACES, write_source

FORCED = Limits(max_growth=60.0, multiply=(("age", "item"), ("sex", "city", "user")))
RNG = np.random.default_rng(0)
COUNTS = {name: RNG.integers(0, 1000, ROWS[name]) for name in ("city", "user", "item")}


def pair(folder: Path, limits: Limits, counts: dict[str, np.ndarray]) -> list[Model]:
    """The model of folder/s as it is, and sorted."""
    models = []
    for name, own in (("plain", Counts()), ("sorted", Counts(counts, 0))):
        out = folder / name
        restructure(read_source(folder / "s"), out, U280, limits, lambda s, w: None, own)
        models.append(load_model(out, slice_rows=64, num_threads=1))
    return models


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_what_is_read_most_comes_first(counts: list[int]) -> None:
    order = by_frequency(np.array(counts))
    assert sorted(order.tolist()) == list(range(len(counts)))
    assert [counts[i] for i in np.argsort(order)] == sorted(counts, reverse=True)


@pytest.fixture(scope="module", params=["default", "zero", "hash", "reject"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Model]:
    folder = tmp_path_factory.mktemp("sorted")
    write(folder / "s", request.param)
    return pair(folder, FORCED, COUNTS)


IDS = st.integers(-(2**63), 2**63 - 1)
FIELDS = ("age", "city", "sex", "user", "item")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_scores_are_the_same_bits(models: list[Model], data: st.DataObject) -> None:
    num_items = data.draw(st.integers(1, 9))
    inputs = {}
    for name in FIELDS:
        ids = st.integers(0, ROWS[name] - 1) | IDS
        size = data.draw(st.sampled_from((1, num_items)))
        inputs[name] = np.array(data.draw(st.lists(ids, min_size=size, max_size=size)), np.int64)
    answers = []
    for model in models:
        try:
            ((found,),) = model.score([model.read_tensors(inputs, 64)])
            answers.append(found.tobytes())
        except InvalidRequestError as error:
            answers.append(str(error).encode())
    assert answers[0] == answers[1]
    assert models[0].engine.missing.tolist() == models[1].engine.missing.tolist()


def test_the_hottest_row_is_the_first(models: list[Model]) -> None:
    layout, arena = models[1].layout, models[1].engine.arena.bytes
    order = orders_in(layout, arena)["item"]
    assert order[np.argmax(COUNTS["item"])] == 0
    assert "rows by frequency" in next(s.reason for s in layout.stored if "item" in s.name)
    assert layout.field("age").order is None
    assert orders_in(models[0].layout, arena) == {}


def test_names_and_bags_are_sorted_alike(tmp_path: Path) -> None:
    write_source(tmp_path / "s")
    counts = {name: np.arange(NUM_ROWS[name]) for name in ("place", "seen", "item")}
    plain, hot = pair(tmp_path, Limits(max_growth=1.0), counts)
    assert orders_in(hot.layout, hot.engine.arena.bytes).keys() == {"place", "seen", "item"}
    for context in ({}, {"place": PLACES, "seen": ITEMS[:4]}, {"seen": ["nothing", "f"]}):
        scores = [m.score([m.read(context, None).query])[0][0].tobytes() for m in (plain, hot)]
        assert scores[0] == scores[1]


def test_an_order_that_leads_out_of_its_table_is_refused(models: list[Model]) -> None:
    layout, arena = models[1].layout, models[1].engine.arena.bytes.copy()
    start = layout.field("user").order
    assert start is not None
    for wrong in (-1, 40):
        arena[start : start + 4] = np.array([wrong], np.int32).view(np.uint8)
        with pytest.raises(ModelError, match="the order of table user leads out of its rows"):
            orders_in(layout, arena)


def test_a_table_is_read_in_one_order(models: list[Model]) -> None:
    layout = models[1].layout
    other = replace(layout.field("user"), name="friend", order=None)
    read = next(x for x in layout.lookups if x.table == "user")
    lookups = [*layout.lookups, replace(read, field="friend")]
    wrong = contradictions(replace(layout, fields=[*layout.fields, other], lookups=lookups))
    assert "table user is read in several orders" in list(wrong)
    fields = [replace(f, order=-4) if f.order is not None else f for f in layout.fields]
    wrong = contradictions(replace(layout, fields=fields))
    assert "field user has its order at byte -4" in list(wrong)


def test_fields_that_share_a_table_have_one_order() -> None:
    fields = [Field(name, "item", 6, 1, "default") for name in ("clicked", "bought", "shown")]
    tables = {"clicked": "item", "shown": "place", "bought": "item"}
    lookups = [Lookup(name, table, None, 0, 0) for name, table in tables.items()]
    row_bytes = {"item": 128, "place": 256}
    counts = {"clicked": np.array([0, 1, 2, 0, 0, 9]), "bought": np.array([3, 0, 0, 0, 9, 0])}
    ((names, order),) = orders_by_frequency(fields, lookups, row_bytes, Counts(counts))
    assert sorted(names) == ["bought", "clicked"]
    assert order.tolist() == [2, 4, 3, 5, 0, 1]
    assert orders_by_frequency(fields, lookups, row_bytes, Counts(counts, 129)) == []


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ({"colour": np.zeros(3, int)}, "counts of colour; the fields are age, city"),
        ({"city": np.zeros(3, int)}, "3 counts for the 7 ids of city"),
        ({"city": np.zeros(7)}, r"the counts of city in .* are float64 \[7\]; needed is"),
        ({"city": np.full(7, -1)}, "needed is a whole number from 0 on"),
        ({"city": np.array([None] * 7)}, "is no .npz file of arrays"),
    ],
)
def test_counts_that_do_not_fit_are_refused_by_name(
    counts: dict[str, np.ndarray],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(tmp_path / "s")
    np.savez(tmp_path / "counts.npz", **counts)
    command = [str(tmp_path / "s"), str(tmp_path / "m"), "--counts", str(tmp_path / "counts.npz")]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert re.search(sentence, said), said
    assert not (tmp_path / "m").exists()


def test_the_command_sorts_what_is_wide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "s")
    np.savez(tmp_path / "counts.npz", **COUNTS)
    counts = ["--counts", str(tmp_path / "counts.npz")]
    assert (
        main([str(tmp_path / "s"), str(tmp_path / "m"), *counts, "--min-sorted-bytes", "40"]) == 0
    )
    assert "rows by frequency of user, item\n" in capsys.readouterr().out
    layout = load_model(tmp_path / "m", slice_rows=8, num_threads=1).layout
    assert [f.name for f in layout.fields if f.order is not None] == ["user", "item"]
    assert main([str(tmp_path / "s"), str(tmp_path / "n"), *counts]) == 0
    assert "of no field: none has rows that wide" in capsys.readouterr().out
    (tmp_path / "counts.npz").write_text("no arrays")
    assert main([str(tmp_path / "s"), str(tmp_path / "x"), *counts]) == 1
    assert "counts.npz is no .npz file of arrays" in capsys.readouterr().err
