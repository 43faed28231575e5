"""Click-through models as torch exports them, split and put together again: the scores of the
whole graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from services.recommender.split import Split, split
from shared.errors import ModelError

torch = pytest.importorskip("torch")
nn = pytest.importorskip("torch.nn")
pytest.importorskip("onnxscript")

pytestmark = [pytest.mark.reference, pytest.mark.timeout(300)]

NUM_ITEMS = 6
SIZES = (50, 40, 30)
Arrays = dict[str, np.ndarray]


class Dlrm(nn.Module):
    """Dot products of pooled fields and of the dense features' own vector (arXiv:1906.00091)."""

    inputs = ("dense", "first", "second", "third")

    def __init__(self) -> None:
        super().__init__()
        self.bottom = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        modes = ("sum", "mean", "sum")
        self.bags = nn.ModuleList(
            nn.EmbeddingBag(size, 8, mode=mode) for size, mode in zip(SIZES, modes, strict=True)
        )
        self.top = nn.Sequential(nn.Linear(8 + 16, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())

    def forward(self, dense, first, second, third):
        bottom = self.bottom(dense)
        ids = (first, second, third)
        pooled = [bag(field) for bag, field in zip(self.bags, ids, strict=True)]
        vectors = torch.stack([bottom, *pooled], 1)
        dots = vectors @ vectors.transpose(1, 2)
        return self.top(torch.cat([bottom, dots.flatten(1)], 1))


class WideAndDeep(nn.Module):
    """A linear part over ids beside a deep one, and rows that the model pools itself
    (arXiv:1606.07792)."""

    inputs = ("dense", "first", "second", "third")

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.ModuleList(nn.Embedding(size, 1) for size in SIZES)
        self.deep = nn.ModuleList(nn.Embedding(size, 8) for size in SIZES)
        self.top = nn.Sequential(nn.Linear(4 + 24, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, dense, first, second, third):
        ids = (first, second, third)
        wide = sum(table(field).sum(1) for table, field in zip(self.wide, ids, strict=True))
        deep = [table(field).mean(dim=1) for table, field in zip(self.deep, ids, strict=True)]
        return torch.sigmoid(wide + self.top(torch.cat([dense, *deep], 1)))


class DeepFm(nn.Module):
    """All fields in one table of each order, by columns of one input with offsets added
    (arXiv:1703.04247)."""

    inputs = ("ids",)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offsets", torch.tensor([0, SIZES[0], SIZES[0] + SIZES[1]]))
        self.linear, self.factors = nn.Embedding(sum(SIZES), 1), nn.Embedding(sum(SIZES), 8)
        self.top = nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, ids):
        ids = ids + self.offsets
        rows = self.factors(ids)
        square = rows.sum(1) ** 2 - (rows**2).sum(1)
        score = self.linear(ids).sum(1) + square.sum(1, keepdim=True) / 2
        return torch.sigmoid(score + self.top(rows.flatten(1)))


class Ragged(nn.Module):
    """Bags by offsets, one of them empty, and a table that two fields share."""

    inputs = ("ids", "offsets", "other")

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(SIZES[0], 8, mode="sum")
        self.top = nn.Linear(16, 1)

    def forward(self, ids, offsets, other):
        return self.top(torch.cat([self.bag(ids, offsets), self.bag(other)], 1))


def inputs(kind: type, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    fields = ("first", "second", "third")
    made: Arrays = {
        "dense": rng.random((NUM_ITEMS, 4), dtype=np.float32),
        **{
            name: rng.integers(0, size, (NUM_ITEMS, 2 + place))
            for place, (name, size) in enumerate(zip(fields, SIZES, strict=True))
        },
    }
    if kind is DeepFm:
        made = {"ids": np.stack([rng.integers(0, size, NUM_ITEMS) for size in SIZES], 1)}
    if kind is Ragged:
        made = {
            "ids": rng.integers(0, SIZES[0], 9),
            "offsets": np.array([0, 2, 2, 5, 6, 7]),
            "other": rng.integers(0, SIZES[0], (NUM_ITEMS, 3)),
        }
    return {name: made[name] for name in kind.inputs}


def export(kind: type, folder: Path, is_new: bool) -> onnx.ModelProto:
    torch.manual_seed(0)
    arguments = tuple(torch.from_numpy(array) for array in inputs(kind).values())
    file = str(folder / "model.onnx")
    with warnings.catch_warnings():
        # The exporters warn of each other and of their own future.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            kind().eval(),
            arguments,
            file,
            dynamo=is_new,
            input_names=list(kind.inputs),
            **({} if is_new else {"opset_version": 17}),
        )
    return onnx.load(file)


def run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})


def together(model: onnx.ModelProto, parts: Split, feeds: Arrays) -> np.ndarray:
    """The scores by the parts, looked up in plain numpy."""
    tables = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    names = [output.name for output in parts.indices.graph.output]
    ids = dict(zip(names, run(parts.indices, feeds), strict=True))
    reduce: dict[str | None, Callable[[np.ndarray], np.ndarray]] = {
        "sum": lambda rows: rows.sum(-2),
        "mean": lambda rows: rows.sum(-2) / max(1, rows.shape[-2]),
        None: lambda rows: rows,
    }
    rows = {}
    for lookup in parts.lookups:
        found = tables[lookup.table][ids[lookup.indices]]
        if lookup.bounds is None:
            rows[lookup.rows] = reduce[lookup.pooling](found)
        else:
            bounds = ids[lookup.bounds]
            bags = [found[a:b] for a, b in pairwise(bounds)]
            rows[lookup.rows] = np.stack([reduce[lookup.pooling](bag) for bag in bags])
    (scores,) = run(parts.dense, {**feeds, **rows})
    return scores


@pytest.mark.parametrize("is_new", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize(
    ("kind", "poolings"),
    [
        (Dlrm, ["mean", "sum", "sum"]),
        (WideAndDeep, ["mean"] * 3 + ["sum"] * 3),
        (DeepFm, ["None", "sum"]),
        (Ragged, ["sum", "sum"]),
    ],
)
def test_the_parts_give_the_scores_of_the_whole(
    kind: type, poolings: list[str], is_new: bool, tmp_path: Path
) -> None:
    model = export(kind, tmp_path, is_new)
    parts = split(model)
    assert sorted(str(lookup.pooling) for lookup in parts.lookups) == poolings
    looked_up = {lookup.table for lookup in parts.lookups}
    assert looked_up.isdisjoint(i.name for i in parts.dense.graph.initializer)
    for seed in (0, 1):
        feeds = inputs(kind, seed)
        (expected,) = run(model, feeds)
        np.testing.assert_allclose(together(model, parts, feeds), expected, rtol=0, atol=1e-5)


class Largest(nn.Module):
    inputs = ("first",)

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(SIZES[0], 8, mode="max")

    def forward(self, first):
        return self.bag(first)


class Nothing(nn.Module):
    inputs = ("dense",)

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Linear(4, 1)

    def forward(self, dense):
        return self.top(dense)


@pytest.mark.parametrize(
    ("kind", "reason"), [(Largest, "plain sums and means"), (Nothing, "looks nothing up")]
)
def test_what_cannot_be_split_is_refused_in_a_sentence(
    kind: type, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=reason):
        split(export(kind, tmp_path, is_new=False))
