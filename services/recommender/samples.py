"""What the dense part of a ranking model reads, for random requests or those of a file.

Gathered as it is served, so that it is what the graph will see.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.recommender.layout import Field, Layout
from services.recommender.model import Model
from services.recommender.query import Bags, Query
from services.recommender.tensors import Array
from shared.errors import InvalidRequestError, ModelError

FloatArray = npt.NDArray[np.float32]
Samples = dict[str, FloatArray]
"""Of one request, by input of the dense graph [items, ...]."""

MAX_ITEMS = 4096
"""Of a random request: a larger catalogue's are drawn."""
MAX_VALUES = 8
"""Of a context key, and ids of a bag, in a random request."""
NUM_ITEMS = 256
"""Of a random request where there is no catalogue."""
MAX_ROWS = 1 << 17
"""Of a file."""


def draw_samples(model: Model, folder: Path, count: int, seed: int) -> list[Samples]:
    """Of `count` random requests. With a catalogue: random names as context, every item; without:
    random ids. Raises ModelError where nothing says what is likely, as of float inputs."""
    rng = np.random.default_rng(seed)
    floats = [tensor.name for tensor in model.layout.inputs if tensor.dtype == "float32"]
    if floats:
        raise ModelError(
            f"{folder} takes numbers, {', '.join(floats)}, which cannot be drawn; say which are "
            "likely by --samples FILE.npz"
        )
    words = _words(model.layout, folder)
    try:
        queries = [
            _named(model, words, rng) if model.num_items else _numbered(model, rng)
            for _ in range(count)
        ]
    except InvalidRequestError as error:
        raise ModelError(
            f"{folder} refuses random requests, as {error}; say which are likely by "
            "--samples FILE.npz"
        ) from error
    return [model.engine.inputs(query) for query in queries]


def read_samples(model: Model, file: Path) -> Samples:
    """Of the request that the file holds: the model's inputs as tensors. Raises ModelError."""
    arrays: dict[str, Array] = {}
    try:
        with file.open("rb") as opened:
            content = np.load(opened, allow_pickle=False)
            if not isinstance(content, np.lib.npyio.NpzFile):
                raise ValueError("it is one array")
            arrays.update({name: content[name] for name in content.files})
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"{file} is no .npz file of arrays: {error}") from error
    try:
        query = model.read_tensors(arrays, MAX_ROWS)
    except InvalidRequestError as error:
        raise ModelError(f"{file}: {error}") from error
    return model.engine.inputs(query)


def _words(layout: Layout, folder: Path) -> dict[str, Sequence[object]]:
    """What each context key's values may be: the first field that reads a key speaks for it."""
    words: dict[str, Sequence[object]] = {}
    for field in layout.context_fields:
        if field.vocabulary is None:
            words.setdefault(str(field.key), range(field.num_rows))
        else:
            names = (folder / field.vocabulary).read_text(encoding="utf-8").splitlines()
            words.setdefault(str(field.key), names)
    return words


def _named(model: Model, words: Mapping[str, Sequence[object]], rng: np.random.Generator) -> Query:
    context = {}
    for key, known in words.items():
        fields = [field for field in model.layout.context_fields if field.key == key]
        count = _num_values(fields, rng) if known else 0
        context[key] = [str(known[number]) for number in rng.integers(len(known), size=count)]
    items = np.arange(model.num_items)
    if len(items) > MAX_ITEMS:
        items = rng.integers(model.num_items, size=MAX_ITEMS)
    return model.read(context, [model.names.items.name(int(item)) for item in items]).query


def _num_values(fields: Sequence[Field], rng: np.random.Generator) -> int:
    """As many as a field takes that reads all of them."""
    exact = [field.length for field in fields if field.length and field.values == "all"]
    return exact[0] if exact else int(rng.integers(1, MAX_VALUES + 1))


def _numbered(model: Model, rng: np.random.Generator) -> Query:
    layout, engine = model.layout, model.engine
    blocks = [
        (columns, rng.integers(layout.field(name).num_rows, size=(NUM_ITEMS, _width(columns))))
        for name, columns in engine.columns.items()
    ]
    bags = {name: _random_bags(layout.field(name), rng) for name in dict.fromkeys(engine.bags)}
    return Query(NUM_ITEMS, blocks, [bags[name] for name in engine.bags])


def _width(columns: slice) -> int:
    return int(columns.stop - columns.start)


def _random_bags(field: Field, rng: np.random.Generator) -> Bags:
    lengths = (
        rng.integers(1, MAX_VALUES + 1, size=NUM_ITEMS)
        if field.length is None
        else np.full(NUM_ITEMS, field.length)
    )
    bounds = np.zeros(NUM_ITEMS + 1, np.int64)
    np.cumsum(lengths, out=bounds[1:])
    return Bags(rng.integers(field.num_rows, size=bounds[-1]), bounds)
