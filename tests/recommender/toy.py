"""A small ranking model with names, made on the spot: two keys, five fields, all derivations."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from services.recommender.graph import Dots, Layer, write_graph
from services.recommender.layout import Catalogue, Layout
from services.recommender.planner.profiles import U280
from services.recommender.planning import Limits
from services.recommender.restructure import read_source, restructure
from services.recommender.source import (
    CandidateField,
    ContextField,
    Description,
    save_description,
)

DIM = 4
ONE = Limits(max_growth=1.0)
"""Products may double what a toy takes."""
ITEMS = ["a", "a.b", "a.b.c", "d", "d.e", "f", "g"]
ROOTS = ["a", "d", "f", "g"]
PLACES = ["x", "x.y", "z"]
CONTEXT_FIELDS = [
    ContextField("place", "place", "parents", "mean", "place", "places.txt", "default"),
    ContextField("seen", "seen", "all", "sum", "seen", "items.txt", "default"),
    ContextField("last", "seen", "last", "sum", "last", "items.txt", "default"),
    ContextField("seen_roots", "seen", "roots", "mean", "seen_root", "roots.txt", "default"),
    ContextField("number", "number", "all", "sum", "number", None, "reject"),
]
NUM_ROWS = {
    "place": len(PLACES) + 1,
    "seen": len(ITEMS) + 1,
    "last": len(ITEMS) + 1,
    "seen_root": len(ROOTS) + 1,
    "number": 5,
    "item": len(ITEMS) + 1,
    "item_root": len(ROOTS) + 1,
}


def write_source(folder: Path, seed: int = 0) -> None:
    """Writes the folder of a trained model, with random weights."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for name, num_rows in NUM_ROWS.items():
        np.save(folder / f"{name}.npy", rng.standard_normal((num_rows, DIM), np.float32))
    for file, names in (("items.txt", ITEMS), ("roots.txt", ROOTS), ("places.txt", PLACES)):
        (folder / file).write_text("".join(f"{name}\n" for name in names))
    rows = [(i, ROOTS.index(name[0]) + 1) for i, name in enumerate(ITEMS, 1)]
    np.save(folder / "catalogue.npy", np.array(rows, np.int32))
    num_features, num_dots = DIM * (len(CONTEXT_FIELDS) + 2), len(CONTEXT_FIELDS) * 2
    layers = [
        Layer(rng.standard_normal((i, o), np.float32) / 4, rng.standard_normal(o, np.float32))
        for i, o in ((num_features + num_dots, 33), (33, 17), (17, 1))
    ]
    write_graph(folder / "mlp.onnx", num_features, layers, Dots(len(CONTEXT_FIELDS), 2, DIM))
    description = Description(
        dense="mlp.onnx",
        context_fields=CONTEXT_FIELDS,
        candidate_fields=[CandidateField("item", "item"), CandidateField("root", "item_root")],
        catalogue=Catalogue(names="items.txt", rows="catalogue.npy", exclude="seen"),
    )
    save_description(description, folder)


def write_toy(folder: Path, seed: int = 0, limits: Limits = ONE) -> Layout:
    """Writes the folder that is served, beside that of the trained model (`source_of`)."""
    write_source(source_of(folder), seed)
    source = read_source(source_of(folder))
    layout, _ = restructure(source, folder, U280, limits, lambda share, what: None)
    return layout


def source_of(folder: Path) -> Path:
    """Where the weights of a toy lie as they were trained."""
    return folder.with_name(f"{folder.name}.source")
