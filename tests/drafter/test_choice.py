"""Whether a draft model runs as machine code or by its graph."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.drafter.choice import load_passes
from services.drafter.compiled import CompiledLlama
from services.drafter.passes import GraphPasses
from shared.errors import ModelError
from shared.lm.compact import FILE_NAME, Linear, load_compact
from shared.lm.manifest import checksum, load_manifest

SHIPPED = Path(__file__).parent.parent.parent / "models" / "quorum-draft-small"


def copied(tmp_path: Path, change: Callable[[Path], None]) -> Path:
    """The shipped model with something else beside its graph."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in SHIPPED.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    change(folder)
    manifest = load_manifest(SHIPPED)
    files = {name: checksum(folder / name) for name in manifest.files if (folder / name).is_file()}
    replace(manifest, name=folder.name, files=files).save(folder)
    return folder


def put(folder: Path, content: bytes) -> None:
    (folder / FILE_NAME).write_bytes(content)


def load(folder: Path, compiles: bool = True) -> object:
    return load_passes(folder, max_slots=2, num_threads=1, device="cpu", compiles=compiles)


def test_a_draft_model_is_compiled_where_it_can_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert isinstance(load(SHIPPED), CompiledLlama)
    assert "machine code runs" in caplog.text
    assert isinstance(load(SHIPPED, compiles=False), GraphPasses)
    assert isinstance(load(copied(tmp_path, lambda f: (f / FILE_NAME).unlink())), GraphPasses)


def test_weights_of_another_model_are_not_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def shuffle(folder: Path) -> None:
        compact = load_compact(SHIPPED)
        order = np.random.default_rng(0).permutation(compact.head.weights.shape[1])
        head = Linear(compact.head.weights[:, order], compact.head.scales[order])
        replace(compact, head=head, embedding=head).save(folder)

    assert isinstance(load(copied(tmp_path, shuffle)), GraphPasses)
    assert "off its graph, which runs instead" in caplog.text


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"no archive"], ids=["empty", "cut", "text"]
)
def test_weights_that_cannot_be_read_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    folder = copied(tmp_path, lambda f: put(f, content))
    with pytest.raises(ModelError, match=r"compact\.npz cannot be read"):
        load(folder)


def test_weights_of_a_later_format_are_refused(tmp_path: Path) -> None:
    def later(folder: Path) -> None:
        with np.load(SHIPPED / FILE_NAME) as file:
            arrays = {**file, "format": np.array(2)}
        np.savez(folder / FILE_NAME, **arrays)

    with pytest.raises(ModelError, match="has format 2; 1 is known"):
        load(copied(tmp_path, later))
