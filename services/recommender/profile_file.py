"""Profiles of machines, by name or from a file that the profile command wrote."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from services.recommender.planner.profiles import U280, Caches, Profile
from shared.errors import ModelError

DEFAULT = "epyc"
_BESIDE = Path(__file__).parent / "planner"


def read_profile(name: str) -> Profile:
    """`u280`, a machine measured by us, or the file of one measured by you. Raises ModelError."""
    if name == U280.name:
        return U280
    shipped = {file.stem: file for file in _BESIDE.glob("*.json")}
    path = shipped.get(name, Path(name))
    if not path.is_file():
        known = ", ".join(sorted([U280.name, *shipped]))
        raise ModelError(f"{name} is no file and no profile; there are {known}")
    try:
        return TypeAdapter(Caches).validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"])) or "the file"
        raise ModelError(f"{path} is no profile: {place}: {problem['msg']}") from error


def save_profile(profile: Caches, file: Path) -> None:
    file.write_text(json.dumps(asdict(profile), indent=1) + "\n")
