"""A trained model's folder becomes the served one: the same scores however tables are stored."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.recommender.folder import load_model
from services.recommender.graph import Layer, write_graph
from services.recommender.layout import Catalogue, Layout, Unknown
from services.recommender.manifest import load_manifest
from services.recommender.model import Model
from services.recommender.packing import pack
from services.recommender.plan import main as explain_main
from services.recommender.planner.profiles import U280
from services.recommender.planning import Limits
from services.recommender.profile_file import DEFAULT, read_profile
from services.recommender.program import ELEMENTS, Element
from services.recommender.query import Query
from services.recommender.restructure import main, read_source, restructure
from services.recommender.source import (
    CandidateField,
    ContextField,
    Description,
    save_description,
)
from shared.errors import ModelError
from tests.recommender.toy import write_source

ROWS = {"age": 5, "city": 7, "sex": 3, "user": 40, "user2": 40, "item": 90, "item2": 90}
DIMS = {"age": 3, "city": 4, "sex": 1, "user": 8, "user2": 2, "item": 16, "item2": 1}


def write(folder: Path, unknown: Unknown = "default", seed: int = 0) -> dict[str, np.ndarray]:
    """One user with several fields of one id each, two of them in two tables, and an item."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    tables = {n: rng.standard_normal((ROWS[n], DIMS[n]), np.float32) for n in ROWS}
    for name, table in tables.items():
        np.save(folder / f"{name}.npy", table)
    width = sum(DIMS.values())
    layers = [
        Layer(rng.standard_normal((width, 8), np.float32), np.zeros(8, np.float32)),
        Layer(rng.standard_normal((8, 1), np.float32), np.zeros(1, np.float32)),
    ]
    write_graph(folder / "dense.onnx", width, layers, None)
    keys = {"age": "age", "city": "city", "sex": "sex", "user": "user", "user2": "user"}
    description = Description(
        "dense.onnx",
        [
            ContextField(name, key, "all", None, name, None, unknown, ROWS[name] - 1)
            for name, key in keys.items()
        ],
        [CandidateField("item", "item"), CandidateField("item2", "item2", "item")],
        Catalogue(None, None, None),
    )
    save_description(description, folder)
    return tables


def made(source: Path, out: Path, limits: Limits) -> tuple[Layout, Model]:
    layout, _ = restructure(read_source(source), out, U280, limits, lambda share, what: None)
    return layout, load_model(out, slice_rows=8, num_threads=1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "s"
    write(folder)
    return folder


@pytest.fixture(scope="module")
def plans(
    source: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Layout, Model]]:
    out = tmp_path_factory.mktemp("plans")
    forced = Limits(max_growth=60.0, multiply=(("age", "item"), ("sex", "city", "user")))
    return {
        "apart": made(source, out / "apart", Limits(max_growth=0.0)),
        "planned": made(source, out / "planned", Limits(max_growth=4.0)),
        "forced": made(source, out / "forced", forced),
    }


def test_tables_are_joined_and_multiplied_as_the_plan_says(
    plans: dict[str, tuple[Layout, Model]],
) -> None:
    stored = {how: {s.name for s in layout.stored} for how, (layout, _) in plans.items()}
    assert {"user*user2", "item*item2", "age", "city", "sex"} <= stored["apart"]
    assert len(stored["planned"]) < len(stored["apart"])
    assert {"age*item", "sex*city*user"} <= stored["forced"]
    for layout, _ in plans.values():
        assert sorted(p.table for s in layout.stored for p in s.parts) == sorted(ROWS)
        for place in layout.stored:
            assert place.offset % 64 == 0
            assert place.reason


IDS = st.tuples(
    *(st.integers(0, ROWS[n] - 1) | st.integers(-(2**63), 2**63 - 1) for n in
      ("age", "city", "sex", "user", "item"))
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(IDS, min_size=1, max_size=20))
def test_scores_are_the_same_bits_however_tables_are_stored(
    plans: dict[str, tuple[Layout, Model]], rows: list[tuple[int, ...]]
) -> None:
    ids = np.array(rows, np.int64)
    scores = []
    for _, model in plans.values():
        ((found,),) = model.score([Query(len(ids), [(slice(0, 5), ids)])])
        scores.append(found.tobytes())
    assert len(set(scores)) == 1


def test_scores_equal_plain_numpy(source: Path, plans: dict[str, tuple[Layout, Model]]) -> None:
    rng = np.random.default_rng(3)
    names = ["age", "city", "sex", "user", "item"]
    ids = np.stack([rng.integers(0, ROWS[name], 30) for name in names], axis=1)
    tables = {name: np.load(source / f"{name}.npy") for name in ROWS}
    readers = {"user2": "user", "item2": "item"}
    features = [tables[n][ids[:, names.index(readers.get(n, n))]] for n in ROWS]
    import onnxruntime

    session = onnxruntime.InferenceSession(source / "dense.onnx")
    (expected,) = session.run(None, {"features": np.concatenate(features, axis=1)})
    _, model = plans["planned"]
    ((found,),) = model.score([Query(30, [(slice(0, 5), ids)])])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("element", "error"), [("fp16", 2**-11), ("int8", 1 / 253)])
def test_narrow_elements_stay_within_their_steps(
    element: Element, error: float, source: Path, tmp_path: Path
) -> None:
    layout, model = made(source, tmp_path / "m", Limits(element, max_growth=4.0))
    assert {stored.element for stored in layout.stored} == {element}
    ids = np.stack([np.arange(40) % ROWS[n] for n in ("age", "city", "sex", "user", "item")], 1)
    names = ["age", "city", "sex", "user", "item"]
    readers = {"user2": "user", "item2": "item"}
    rows = [np.load(source / f"{n}.npy")[ids[:, names.index(readers.get(n, n))]] for n in ROWS]
    expected = np.concatenate(rows, axis=1)
    largest = np.concatenate(
        [np.repeat(abs(r).max(1, keepdims=True), r.shape[1], 1) for r in rows], 1
    )
    found = model.engine.inputs(Query(40, [(slice(0, 5), ids)]))["features"]
    assert (abs(found - expected) <= largest * error * 1.001).all()


def test_the_largest_tables_are_narrowed_until_all_fit(source: Path, tmp_path: Path) -> None:
    full = sum(ROWS[name] * DIMS[name] * 4 for name in ROWS)
    layout, _ = made(source, tmp_path / "a", Limits(max_bytes=full - 2000, max_growth=0))
    narrowed = {p.table for s in layout.stored if s.element == "fp16" for p in s.parts}
    assert narrowed == {"item", "item2"}
    with pytest.raises(ModelError, match=r"take \d+ bytes in int8; 500 are allowed"):
        made(source, tmp_path / "b", Limits(max_bytes=500))


def test_a_product_beyond_the_cap_is_refused_with_the_arithmetic(
    source: Path, tmp_path: Path
) -> None:
    limits = Limits(max_growth=0.05, multiply=(("user", "item"),))
    with pytest.raises(
        ModelError, match=r"40 x 90 = 3,600 rows of 96 bytes: 345,600 bytes instead "
    ):
        made(source, tmp_path / "m", limits)
    with pytest.raises(ModelError, match="no table colour to multiply; there are age"):
        made(source, tmp_path / "m", replace(limits, multiply=(("colour", "age"),)))
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("unknown", ["zero", "hash", "default", "reject"])
def test_each_field_says_what_an_unknown_id_reads(unknown: Unknown, tmp_path: Path) -> None:
    tables = write(tmp_path / "s", unknown)
    _, model = made(tmp_path / "s", tmp_path / "m", Limits(max_growth=4.0))
    context = {"age": ["1"], "city": ["2"], "sex": ["0"], "user": ["9999"]}
    if unknown == "reject":
        with pytest.raises(Exception, match=r"'9999', which user has no row for"):
            model.read(context, ["3"])
        return
    inputs = model.engine.inputs(model.read(context, ["3"]).query)
    place = sum(DIMS[n] for n in ("age", "city", "sex"))
    found = inputs["features"][0, place : place + 8]
    if unknown == "zero":
        assert not found.any()
        assert model.engine.missing.tolist() == [0, 0, 0, 1, 0]
    else:
        rows = tables["user"] if unknown == "hash" else tables["user"][-1:]
        assert (rows == found).all(axis=1).any()


def test_out_is_whole_or_it_is_none(source: Path, tmp_path: Path) -> None:
    layout, _ = made(source, tmp_path / "m", Limits())
    assert {f.name for f in (tmp_path / "m").iterdir()} == {*layout.files, "manifest.json"}
    for name, digest in layout.files.items():
        assert hashlib.sha256((tmp_path / "m" / name).read_bytes()).hexdigest() == digest
    assert load_manifest(tmp_path / "m") == layout
    with pytest.raises(ModelError, match="not empty"):
        made(source, tmp_path / "m", Limits())
    arena = tmp_path / "m" / "arena.bin"
    arena.write_bytes(arena.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"arena\.bin is damaged"):
        load_manifest(tmp_path / "m")


def test_values_that_no_type_holds_are_refused(source: Path, tmp_path: Path) -> None:
    tables = write(tmp_path / "s")
    np.save(tmp_path / "s" / "city.npy", np.where(tables["city"] > 2, np.nan, tables["city"]))
    if not np.isnan(np.load(tmp_path / "s" / "city.npy")).any():
        np.save(tmp_path / "s" / "city.npy", np.full((7, 4), np.inf, np.float32))
    with pytest.raises(ModelError, match="table city holds a value that is not finite"):
        made(tmp_path / "s", tmp_path / "m", Limits())
    assert not (tmp_path / "m" / "manifest.json").exists()
    with pytest.raises(ModelError, match="float16 cannot"):
        pack(np.full((1, 1), 1e6, np.float32), "fp16")


@given(st.sampled_from(ELEMENTS), st.integers(1, 70), st.integers(0, 2**32))
def test_packing_keeps_the_largest_value_and_zeros(element: Element, dim: int, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((3, dim), np.float32)
    values[1] = 0
    packed = pack(values, element)
    assert packed.dtype == np.uint8
    assert not packed[1].any()


def test_a_profile_of_this_kind_of_machine_multiplies_nothing_that_costs(
    source: Path, tmp_path: Path
) -> None:
    profile = read_profile(DEFAULT)
    _, planned = restructure(
        read_source(source), tmp_path / "m", profile, Limits(max_growth=4.0), lambda s, w: None
    )
    assert planned.ns <= planned.ns_alone


def test_the_command_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_source(tmp_path / "s")
    assert main([str(tmp_path / "s"), str(tmp_path / "m"), "--profile", "u280"]) == 0
    shown = capsys.readouterr()
    assert "7 tables stored as" in shown.out
    assert "by profile u280" in shown.out
    assert "manifest.json" in shown.err
    assert main([str(tmp_path / "none"), str(tmp_path / "x")]) == 1
    assert "none is not there" in capsys.readouterr().err
    assert main([str(tmp_path / "s"), str(tmp_path / "x"), "--profile", "mine"]) == 1
    assert "no profile; there are epyc, u280" in capsys.readouterr().err


def test_a_plan_is_explained_without_writing_anything(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(source.iterdir())
    arguments = [str(source), "--profile", "u280", "--explain", "--max-growth", "4"]
    assert explain_main(arguments) == 0
    shown = capsys.readouterr().out
    layout_lines = [line for line in shown.splitlines() if " fp32 " in line]
    assert any("user*user2: joined: the same ids read all" in line for line in layout_lines)
    assert any("multiplied: one access of" in line for line in layout_lines)
    assert "500.0% are allowed" in shown
    assert "ns an item by profile u280; each table alone" in shown
    assert shown.count("accesses,") == 7
    assert sorted(source.iterdir()) == before
    assert explain_main([str(source), "--multiply", "user*item"]) == 1
    assert "3,600 rows of 96 bytes" in capsys.readouterr().err
