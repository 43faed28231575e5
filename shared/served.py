"""Which language models are served: a model's folder, or a folder of models with `served.json`.

That file lists the target models, the first of them for requests that name none, each with the
draft models of its own. Whoever serves them looks at it again and again (`POLL_S`), so that models
are added and removed without a restart.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ModelError
from shared.lm.manifest import FILE_NAME as MANIFEST

FILE_NAME = "served.json"
POLL_S = 1.0
MAX_TARGETS = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Target:
    """A target model that is served. `stamp` changes with its content."""

    folder: Path
    stamp: int = 0
    drafters: tuple[str, ...] = ()
    """Names of its draft models, folders beside it. Those that look up draft for every target."""
    translated: tuple[str, ...] = ()
    """Those of them whose tokens are others than the target's."""

    @property
    def name(self) -> str:
        return self.folder.name


def is_list(folder: Path) -> bool:
    """Whether it lists targets, rather than being one."""
    return (folder / FILE_NAME).is_file()


def read(folder: Path) -> list[Target]:
    """The targets of a folder that is one, or lists them. Raises ModelError."""
    file = folder / FILE_NAME
    if (folder / MANIFEST).is_file():
        return [Target(folder, stamp(folder))]
    if not is_list(folder):
        raise ModelError(
            f"{folder} is no exported model: it has no {MANIFEST}; nor does it list models in "
            f"{FILE_NAME}"
        )
    targets = []
    for name, own in _listed(file).items():
        drafters, translated = _names(file, own, "drafters"), _names(file, own, "translated")
        if not set(translated) <= set(drafters):
            raise ModelError(f"{file}: {name}: `translated` names what is not among `drafters`")
        targets.append(Target(folder / name, stamp(folder / name), drafters, translated))
    return targets


def write(folder: Path, targets: Sequence[Target]) -> None:
    """Replaces the list in one step. Raises ModelError for more than `MAX_TARGETS`."""
    if len(targets) > MAX_TARGETS:
        raise ModelError(f"{folder / FILE_NAME} lists {MAX_TARGETS} targets at most")
    content = {
        target.name: {"drafters": list(target.drafters)}
        | ({"translated": list(target.translated)} if target.translated else {})
        for target in targets
    }
    fresh = folder / f".{FILE_NAME}.new"
    fresh.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(fresh, folder / FILE_NAME)


def stamp(folder: Path) -> int:
    """Of a model's content: whoever changes it writes the manifest anew."""
    try:
        return (folder / MANIFEST).stat().st_mtime_ns
    except OSError:
        return 0


def _listed(file: Path) -> Mapping[str, object]:
    try:
        content = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise ModelError(f"{file} is no JSON: {error}") from error
    if not isinstance(content, dict) or len(content) > MAX_TARGETS:
        raise ModelError(f"{file} is no object of at most {MAX_TARGETS} targets")
    for name, own in content.items():
        if not _NAME.fullmatch(name) or not isinstance(own, dict):
            raise ModelError(f'{file}: {name!r} should be a target: "NAME": {{"drafters": [...]}}')
        if unknown := own.keys() - {"drafters", "translated"}:
            raise ModelError(f"{file}: {name}: unknown {', '.join(sorted(unknown))}")
    return content


def _names(file: Path, own: object, key: str) -> tuple[str, ...]:
    names = own.get(key, []) if isinstance(own, dict) else None
    if not isinstance(names, list) or not all(
        isinstance(name, str) and _NAME.fullmatch(name) for name in names
    ):
        raise ModelError(f"{file}: {key!r} should be a list of names of folders beside it")
    return tuple(names)
