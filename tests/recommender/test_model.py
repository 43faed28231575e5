"""A loaded model: scores equal a reference in plain numpy, whatever is scored together."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from services.recommender.folder import load_model
from services.recommender.model import Model
from services.recommender.names import Ranking
from shared.errors import InvalidRequestError
from tests.recommender.toy import CONTEXT_FIELDS, DIM, ITEMS, PLACES, ROOTS, source_of, write_toy

Context = dict[str, list[str]]
CONTEXTS = st.fixed_dictionaries(
    {},
    optional={
        "place": st.lists(st.sampled_from([*PLACES, "x.new", "new"]), max_size=2),
        "seen": st.lists(st.sampled_from([*ITEMS, "new.b"]), max_size=6),
        "number": st.lists(st.sampled_from("01234"), max_size=3),
    },
)
REQUESTS = st.tuples(CONTEXTS, st.none() | st.lists(st.sampled_from(ITEMS), min_size=1, max_size=9))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recommender") / "toy"
    write_toy(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model(folder, slice_rows=64, num_threads=1)


def names_of(model: Model, ranking: Ranking) -> list[str]:
    return [model.names.items.name(item) for item in ranking.items.tolist()]


def row(names: list[str], name: str) -> int:
    return names.index(name) + 1 if name in names else 0


def context_rows(context: Context) -> list[list[int]]:
    """Written out field by field, for this model alone."""
    seen = context.get("seen", [])
    places = []
    for value in context.get("place", []):
        places += [value, value[0]] if value.startswith("x.") else [value]
    known = [row(PLACES, p) for p in places if p in PLACES]
    roots = list(dict.fromkeys(name.split(".")[0] for name in seen))
    return [
        known or [0] * len(places),
        [row(ITEMS, name) for name in seen],
        [row(ITEMS, name) for name in seen[-1:]],
        [row(ROOTS, name) for name in roots],
        [int(value) for value in context.get("number", [])],
    ]


def score_plainly(folder: Path, context: Context, item: str) -> float:
    """One item: tables and weights straight from the files, in float64."""
    fields = []
    for field, rows in zip(CONTEXT_FIELDS, context_rows(context), strict=True):
        vectors = np.load(source_of(folder) / f"{field.table}.npy").astype(np.float64)[rows]
        total = vectors.sum(axis=0)
        fields.append(total / max(len(rows), 1) if field.pooling == "mean" else total)
    candidates = [
        np.load(source_of(folder) / "item.npy")[ITEMS.index(item) + 1],
        np.load(source_of(folder) / "item_root.npy")[ROOTS.index(item[0]) + 1],
    ]
    dots = [candidate @ vector for candidate in candidates for vector in fields]
    hidden = np.concatenate([*fields, *candidates, dots])
    graph = onnx.load(folder / "dense.onnx").graph
    weights = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in graph.initializer}
    for layer in range(3):
        hidden = hidden @ weights[f"weight{layer}"] + weights[f"bias{layer}"]
        if layer < 2:
            hidden = np.maximum(hidden, 0)
    return float(hidden[0])


@settings(max_examples=60, deadline=None)
@given(REQUESTS)
def test_scores_equal_a_reference_written_in_numpy(
    folder: Path, model: Model, request_: tuple[Context, list[str] | None]
) -> None:
    context, candidates = request_
    ranking = model.read(context, candidates)
    (scores,) = model.rank([ranking.query])
    names = names_of(model, ranking)
    expected = [score_plainly(folder, context, name) for name in names]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    seen = context.get("seen", [])
    assert names == (candidates or [name for name in ITEMS if name not in seen])


@settings(max_examples=60, deadline=None)
@given(st.lists(REQUESTS, min_size=1, max_size=12))
def test_scores_are_the_same_bits_whatever_is_scored_with_them(
    model: Model, requests: list[tuple[Context, list[str] | None]]
) -> None:
    queries = [model.read(context, candidates).query for context, candidates in requests]
    together = model.rank(queries)
    alone = [model.rank([query])[0] for query in queries]
    assert [scores.tobytes() for scores in together] == [scores.tobytes() for scores in alone]


def test_a_long_request_is_scored_in_several_passes(folder: Path, model: Model) -> None:
    small = load_model(folder, slice_rows=2, num_threads=1)
    query = model.read({"place": ["z"]}, ITEMS * 11).query
    np.testing.assert_array_equal(small.rank([query])[0], model.rank([query])[0])


def test_no_queries_have_no_scores(model: Model) -> None:
    assert model.score([]) == []


def test_nothing_is_left_when_everything_was_seen(model: Model) -> None:
    query = model.read({"seen": ITEMS}, None).query
    assert [len(scores) for scores in model.rank([query])] == [0]


def test_unknown_candidates_are_refused_by_name(model: Model) -> None:
    names = [f"new{i}" for i in range(7)]
    with pytest.raises(InvalidRequestError, match=r"'new0', .*'new4' and 2 more") as caught:
        model.read({}, ["a", *names])
    assert caught.value.param == "candidates"


def test_an_empty_list_of_candidates_is_refused(model: Model) -> None:
    with pytest.raises(InvalidRequestError, match="at least one") as caught:
        model.read({}, [])
    assert caught.value.param == "candidates"


def test_reading_keeps_the_order_and_the_duplicates_of_candidates(model: Model) -> None:
    ranking = model.read({}, ["g", "a", "g"])
    assert names_of(model, ranking) == ["g", "a", "g"]
    first, _, last = model.rank([ranking.query])[0]
    assert first == last
    assert model.layout.num_features == DIM * 7
