"""`manifest.json`: the layout of a ranking model's folder, and the proof that its files are whole.

It is written last: a folder without one is unfinished.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from services.recommender.layout import Layout, contradictions
from shared.errors import ModelError
from shared.lm.manifest import check_files

FILE_NAME = "manifest.json"


def save_manifest(layout: Layout, folder: Path) -> None:
    """Completes the folder. Raises ModelError for a layout that could not be loaded again."""
    _check(layout, folder)
    (folder / FILE_NAME).write_text(json.dumps(asdict(layout), indent=2) + "\n")


def load_manifest(folder: Path) -> Layout:
    """Reads and verifies, every file by its checksum. Raises ModelError naming the folder and what
    is wrong with it."""
    layout = read_manifest(folder)
    check_files(folder, layout.files)
    return layout


def read_manifest(folder: Path) -> Layout:
    """The manifest alone, which must be sound. Raises ModelError."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise ModelError(f"{folder} is no ranking model: it has no {FILE_NAME}")
    try:
        layout = TypeAdapter(Layout).validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"])) or "the file"
        raise ModelError(
            f"{path} is not a manifest of this version: {place}: {problem['msg']}"
        ) from error
    _check(layout, folder)
    return layout


def version_of(layout: Layout) -> str:
    """Twelve characters that change whenever any file of the model does, and stay the same for
    models from before there were layers."""
    fields = asdict(layout)
    if layout.layers is None:
        del fields["layers"]
    listed = json.dumps(fields, sort_keys=True)
    return hashlib.sha256(listed.encode()).hexdigest()[:12]


def _check(layout: Layout, folder: Path) -> None:
    for problem in contradictions(layout):
        raise ModelError(f"{folder / FILE_NAME}: {problem}")
