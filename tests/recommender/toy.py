"""A small ranking model with names, made on the spot: two keys, five fields, all derivations."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from services.recommender.graph import Dots, Layer, write_graph
from services.recommender.layout import (
    FORMAT,
    CandidateField,
    Catalogue,
    ContextField,
    Layout,
    Table,
)
from services.recommender.manifest import save_manifest
from shared.lm.manifest import checksum

DIM = 4
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


def write_toy(folder: Path, seed: int = 0) -> Layout:
    """Writes the folder with random weights."""
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
    layout = Layout(
        format=FORMAT,
        context_fields=CONTEXT_FIELDS,
        candidate_fields=[CandidateField("item", "item"), CandidateField("root", "item_root")],
        tables=[Table(name, f"{name}.npy", rows, DIM) for name, rows in NUM_ROWS.items()],
        catalogue=Catalogue(names="items.txt", rows="catalogue.npy", exclude="seen"),
        mlp="mlp.onnx",
        files={file.name: checksum(file) for file in sorted(folder.iterdir())},
    )
    save_manifest(layout, folder)
    return layout
