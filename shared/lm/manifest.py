"""What a model folder says of itself, and the proof that its files are whole.

`manifest.json` is written last by services/verifier/export.py: a folder without one is unfinished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from shared.errors import ModelError

FORMAT = 3
FILE_NAME = "manifest.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A decoder's shape and files. `max_context` is in tokens; `files` maps names to SHA-256."""

    format: int
    name: str
    architecture: str
    precision: str
    graph: str
    """`in-place` (ours) or `concat` (a plain decoder-with-past export)."""
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    max_context: int
    eos_token_ids: list[int]
    files: dict[str, str]

    def save(self, folder: Path) -> None:
        (folder / FILE_NAME).write_text(json.dumps(asdict(self), indent=2) + "\n")


def load_manifest(folder: Path, used: Container[str] | None = None) -> Manifest:
    """Reads, and verifies all files, or those `used` alone. Raises ModelError naming the folder
    and what is wrong with it."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise ModelError(f"{folder} is no exported model: it has no {FILE_NAME}")
    try:
        content = json.loads(path.read_text())
        manifest = Manifest(**content)
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path} is not a manifest of this version: {error}") from error
    if manifest.format != FORMAT:
        raise ModelError(f"{path} has format {manifest.format}; this build reads {FORMAT}")
    files = manifest.files.items()
    check_files(folder, {name: sum_ for name, sum_ in files if used is None or name in used})
    return manifest


def check_files(folder: Path, checksums: Mapping[str, str]) -> None:
    """Raises ModelError for a file that is missing or not what its checksum says."""
    for name, expected in checksums.items():
        file = folder / name
        if not file.is_file():
            raise ModelError(f"{folder} lacks {name}, which its manifest lists")
        if checksum(file) != expected:
            raise ModelError(f"{file} is damaged: its checksum is not the manifest's")


def checksum(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
