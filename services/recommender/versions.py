"""python -m services.recommender.versions MODEL [LABEL=VERSION ...]

Versions of a ranking model, side by side. MODEL is a folder with a folder for each version, and
`labels.json`, which says which one each label means; requests that name none get `stable`. Without
that file the newest is stable. A folder that is a model itself has one version.

The command shows versions and labels, or sets labels: whoever serves MODEL loads what a label
means, verifies it, and changes over; to roll back is to set the label back.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from services.recommender.manifest import FILE_NAME, load_manifest, read_manifest, version_of
from shared.command_line import parser_of
from shared.errors import BusError, InvalidRequestError, ModelError

logger = logging.getLogger(__name__)

STABLE = "stable"
LABELS_FILE = "labels.json"
MAX_LABELS = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

T = TypeVar("T")


class VersionError(InvalidRequestError):
    """Asked for a version or a label that is not there."""

    code = "not_found"

    def __init__(self, message: str) -> None:
        super().__init__(message, "version")


class Versions(Generic[T]):
    """The versions that labels mean, opened: of those, one is served for each label."""

    def __init__(
        self,
        folder: Path,
        opening: Callable[[str, Path], Awaitable[T]],
        closing: Callable[[T], Awaitable[None]],
    ) -> None:
        """`opening` raises ModelError for a version that cannot be served."""
        self._folder = folder
        self._opening = opening
        self._closing = closing
        self._open: dict[str, T] = {}
        self._refused: dict[str, int] = {}
        self.labels: dict[str, str] = {}
        """The version that each label means now."""

    def get(self, wanted: str | None) -> tuple[str, T]:
        """The version of a label, or of its own name. Raises VersionError."""
        version = self.labels.get(wanted or STABLE, wanted or STABLE)
        if version not in self._open:
            raise VersionError(
                f"no version {version!r}; there are {', '.join(self._open)}, by labels "
                f"{', '.join(f'{label}={own}' for label, own in sorted(self.labels.items()))}"
            )
        return version, self._open[version]

    @property
    def open(self) -> Mapping[str, T]:
        """By version."""
        return self._open

    async def refresh(self) -> bool:
        """Opens what labels newly mean, then changes over, then closes what none means any more.
        A version that cannot be opened is logged once, and its labels stay where they were.
        Whether anything has changed. Raises ModelError where stable means nothing at all."""
        try:
            wanted = await asyncio.to_thread(read_labels, self._folder)
        except ModelError as error:
            if not self._open:
                raise
            self._refuse(LABELS_FILE, self._folder / LABELS_FILE, error)
            return False
        before = dict(self.labels)
        for version in dict.fromkeys(wanted.values()):
            await self._try(version)
        labels = {
            label: version if version in self._open else before.get(label, "")
            for label, version in wanted.items()
        }
        self.labels = {label: version for label, version in labels.items() if version}
        for version in self._open.keys() - set(self.labels.values()):
            await self._closing(self._open.pop(version))
        return self.labels != before

    async def close(self) -> None:
        """Closes all versions."""
        for served in self._open.values():
            await self._closing(served)
        self._open.clear()

    async def _try(self, version: str) -> None:
        folder = folder_of(self._folder, version)
        if version in self._open or self._refused.get(version) == _stamp(folder / FILE_NAME):
            return
        try:
            self._open[version] = await self._opening(version, folder)
        except ModelError as error:
            if STABLE not in self.labels:
                raise
            self._refuse(version, folder / FILE_NAME, error)
        except BusError as error:
            if STABLE not in self.labels:
                raise
            logger.warning("%s is not loaded yet: %s", version, error)

    def _refuse(self, what: str, file: Path, error: ModelError) -> None:
        stamp = _stamp(file)
        if self._refused.get(what) != stamp:
            self._refused[what] = stamp
            logger.error("%s is not loaded, what was there stays: %s", what, error)


def versions_in(folder: Path) -> dict[str, Path]:
    """Folders of the versions, the oldest first: numbers by their value, then other names. Raises
    ModelError where there is none."""
    if (folder / FILE_NAME).is_file():
        return {version_of(read_manifest(folder)): folder}
    found = {file.parent.name: file.parent for file in folder.glob(f"*/{FILE_NAME}")}
    named = {name: path for name, path in found.items() if _NAME.fullmatch(name)}
    if not named:
        raise ModelError(f"{folder} is no ranking model: it has no {FILE_NAME}, nor versions")
    order = sorted(named, key=lambda name: (int(name) if name.isdecimal() else -1, name))
    return {name: named[name] for name in order}


def folder_of(folder: Path, version: str) -> Path:
    """Of a version that `read_labels` has named."""
    return folder if (folder / FILE_NAME).is_file() else folder / version


def read_labels(folder: Path) -> dict[str, str]:
    """Which version each label means. Raises ModelError."""
    versions = versions_in(folder)
    path = folder / LABELS_FILE
    if not path.is_file():
        return {STABLE: list(versions)[-1]}
    try:
        labels = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} is no JSON: {error}") from error
    if not isinstance(labels, dict) or STABLE not in labels or len(labels) > MAX_LABELS:
        raise ModelError(f"{path} is no map of at most {MAX_LABELS} labels, {STABLE} among them")
    for label, version in labels.items():
        _check(path, label, version, versions)
    return labels


def write_labels(folder: Path, changes: Mapping[str, str]) -> dict[str, str]:
    """Changes labels in one step; an empty version takes a label away. Raises ModelError for a
    version that is not there or not whole."""
    versions = versions_in(folder)
    path = folder / LABELS_FILE
    if (folder / FILE_NAME).is_file():
        raise ModelError(f"{folder} is one version itself; labels need a folder of versions")
    labels = read_labels(folder)
    for label, version in changes.items():
        if not version:
            labels.pop(label, None)
            continue
        _check(path, label, version, versions)
        load_manifest(versions[version])
        labels[label] = version
    if STABLE not in labels or len(labels) > MAX_LABELS:
        raise ModelError(f"there must be {STABLE}, and at most {MAX_LABELS} labels in all")
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(labels, indent=2, sort_keys=True) + "\n")
    os.replace(fresh, path)
    return labels


def _check(path: Path, label: object, version: object, versions: Mapping[str, Path]) -> None:
    if not isinstance(label, str) or not _NAME.fullmatch(label) or label in versions:
        raise ModelError(f"{path}: {label!r} is no label: letters, digits, _, . and -, no version")
    if version not in versions:
        raise ModelError(f"{path}: {label} means {version!r}; there are {', '.join(versions)}")


def _stamp(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def main(argv: list[str] | None = None) -> int:
    """The command. Returns its exit code."""
    parser = parser_of("services.recommender.versions", __doc__)
    parser.add_argument("model", type=Path, help="folder of versions")
    parser.add_argument("labels", nargs="*", metavar="LABEL=VERSION", help="LABEL= takes it away")
    arguments = parser.parse_args(argv)
    pairs = [text.partition("=") for text in arguments.labels]
    if wrong := [label for label, equals, _ in pairs if not equals]:
        parser.error(f"{wrong[0]} says no version; write {wrong[0]}=VERSION")
    try:
        if pairs:
            labels = write_labels(arguments.model, {label: own for label, _, own in pairs})
        else:
            labels = read_labels(arguments.model)
        for version in versions_in(arguments.model):
            own = [label for label, meant in sorted(labels.items()) if meant == version]
            print(f"{version:20} {' '.join(own)}".rstrip())
    except ModelError as error:
        print(f"versions: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
