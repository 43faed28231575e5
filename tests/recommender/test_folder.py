"""A broken folder is refused with a sentence that names what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from services.recommender.folder import load_model
from services.recommender.graph import Layer, write_graph
from services.recommender.manifest import load_manifest, save_manifest, version_of
from shared.errors import ModelError
from shared.lm.manifest import checksum
from tests.recommender.toy import write_toy

Json = dict[str, object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_toy(tmp_path / "toy")
    return tmp_path / "toy"


def load(folder: Path) -> None:
    load_model(folder, slice_rows=8, num_threads=1)


def edit(folder: Path, change: Callable[[Json], object]) -> None:
    """Changes the manifest behind the writer's back."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def replace(folder: Path, name: str, array: np.ndarray | bytes) -> None:
    """Another file under the same name, with a checksum that holds."""
    if isinstance(array, bytes):
        (folder / name).write_bytes(array)
    else:
        np.save(folder / name, array)
    digest = checksum(folder / name)
    edit(folder, lambda m: cast(Json, m["files"]).update({name: digest}))


def first(content: Json, part: str) -> Json:
    return cast(list[Json], content[part])[0]


def test_a_manifest_is_read_as_it_was_written(folder: Path) -> None:
    layout = load_manifest(folder)
    save_manifest(layout, folder)
    assert load_manifest(folder) == layout


def test_the_version_changes_with_any_weight(tmp_path: Path) -> None:
    versions = {version_of(write_toy(tmp_path / str(seed), seed)) for seed in range(3)}
    assert len(versions) == 3


def test_a_folder_without_manifest_is_unfinished(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(ModelError, match=r"toy is no ranking model: it has no manifest\.json"):
        load(folder)


@pytest.mark.parametrize("name", ["arena.bin", "items.txt", "catalogue.npy", "dense.onnx"])
def test_a_damaged_file_is_named(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"{name} is damaged"):
        load(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "arena.bin").unlink()
    with pytest.raises(ModelError, match=r"lacks arena\.bin"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.update(format=1), "format 1; this build reads 2"),
        (lambda m: m.pop("tables"), "tables"),
        (lambda m: m.update(colour="red"), "colour"),
        (lambda m: m.update(dense="../mlp.onnx"), "is not the name of a file"),
        (lambda m: m.update(dense="other.onnx"), "other.onnx is used but has no checksum"),
        (lambda m: m.update(lookups=[]), "nothing to serve"),
        (
            lambda m: m.update(
                fields=[f for f in m["fields"] if f["scope"] == "context"], lookups=m["lookups"][:5]
            ),
            "nothing to rank",
        ),
        (lambda m: first(m, "lookups").update(table="none"), "in table none has no such"),
        (lambda m: first(m, "lookups").update(pooling="max"), "pooling"),
        (lambda m: first(m, "lookups").update(pooling=None), "any number of ids and no pooling"),
        (lambda m: first(m, "lookups").update(output=1), "output 1, which is not there"),
        (lambda m: first(m, "lookups").update(place=27), "beyond the 28 values"),
        (lambda m: first(m, "fields").update(name="seen"), "two fields are called seen"),
        (lambda m: first(m, "fields").update(key=None), "of scope context and has key None"),
        (lambda m: first(m, "fields").update(num_rows=5), "ids below 5 for 4 rows"),
        (lambda m: first(m, "fields").update(default_row=4), "4 rows, default row 4"),
        (lambda m: first(m, "fields").update(length=0), "0 ids an item"),
        (lambda m: first(m, "tables").update(name="seen"), "two tables are called seen"),
        (lambda m: first(m, "tables").update(num_rows=0), "has 0 rows"),
        (lambda m: first(m, "tables").update(num_rows="4"), "num_rows"),
        (lambda m: first(m, "stored").update(num_rows=1), "has 1 rows; its ids reach"),
        (lambda m: first(m, "stored").update(stride=12), "beyond the 12 bytes"),
        (lambda m: m["stored"].pop(), "not the model's tables, each once"),
        (lambda m: m["catalogue"].update(rows=None), "come together"),
        (lambda m: m["catalogue"].update(names=None, rows=None), "exactly one candidate field"),
        (lambda m: m["catalogue"].update(exclude="colour"), "no context key"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_reason(
    folder: Path, change: Callable[[Json], object], sentence: str
) -> None:
    edit(folder, change)
    with pytest.raises(ModelError, match=sentence) as caught:
        load(folder)
    assert str(folder / "manifest.json") in str(caught.value)


def test_a_manifest_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ModelError, match="not a manifest of this version"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("arena.bin", b"short", "cut off: 5 of"),
        ("places.txt", b"x\ny\n", "2 names; field place has 4 rows"),
        ("places.txt", b"x\nx\nz\n", "a name twice"),
        ("places.txt", b"\xff\n", "not UTF-8"),
        ("catalogue.npy", np.zeros((7, 1), np.int32), "needed is int32"),
        ("catalogue.npy", np.full((7, 2), 99, np.int32), "points outside"),
        ("catalogue.npy", np.full((7, 2), -1, np.int32), "points outside"),
        ("dense.onnx", b"not a graph", "no graph that onnxruntime loads"),
    ],
)
def test_a_file_of_another_form_is_named(
    folder: Path, name: str, content: np.ndarray | bytes, sentence: str
) -> None:
    replace(folder, name, content)
    with pytest.raises(ModelError, match=sentence) as caught:
        load(folder)
    assert name in str(caught.value)


def test_an_mlp_of_another_width_is_refused(folder: Path) -> None:
    layer = Layer(np.zeros((9, 1), np.float32), np.zeros(1, np.float32))
    write_graph(folder / "dense.onnx", 9, [layer], None)
    replace(folder, "dense.onnx", (folder / "dense.onnx").read_bytes())
    with pytest.raises(ModelError, match=r"\['rows', 9\]; needed are .* \['rows', 28\]"):
        load(folder)


def test_an_mlp_with_several_outputs_a_row_is_refused_at_load(folder: Path) -> None:
    layer = Layer(np.zeros((28, 2), np.float32), np.zeros(2, np.float32))
    write_graph(folder / "dense.onnx", 28, [layer], None)
    replace(folder, "dense.onnx", (folder / "dense.onnx").read_bytes())
    with pytest.raises(ModelError, match=r"dense\.onnx answers \[2\] a row; needed is one score"):
        load(folder)


def test_a_score_that_is_not_finite_fails_the_request(folder: Path) -> None:
    size = (folder / "arena.bin").stat().st_size
    replace(folder, "arena.bin", np.full(size // 4, np.nan, np.float32).tobytes())
    model = load_model(folder, slice_rows=8, num_threads=1)
    with pytest.raises(ModelError, match="not finite"):
        model.rank([model.read({}, None).query])
