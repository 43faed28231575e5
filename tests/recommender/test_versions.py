"""Versions side by side: a new one replaces the old one once it is whole, and never before."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from services.recommender.folder import load_model
from services.recommender.manifest import load_manifest, version_of
from services.recommender.model import Model
from services.recommender.versions import (
    VersionError,
    Versions,
    main,
    read_labels,
    versions_in,
    write_labels,
)
from shared.errors import ModelError
from tests.recommender.toy import write_toy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Versions 2, 9 and 10, of other weights each."""
    for number in (2, 9, 10):
        write_toy(tmp_path / "made" / str(number), seed=number)
        (tmp_path / "toy").mkdir(exist_ok=True)
        os.rename(tmp_path / "made" / str(number), tmp_path / "toy" / str(number))
    return tmp_path / "toy"


class Opened:
    """Real models, and what was opened and closed."""

    def __init__(self, folder: Path) -> None:
        self.log: list[str] = []
        self.versions = Versions(folder, self.open, self.close)

    async def open(self, version: str, path: Path) -> Model:
        model = await asyncio.to_thread(load_model, path, slice_rows=8, num_threads=1)
        self.log.append(f"+{version}")
        return model

    async def close(self, model: Model) -> None:
        self.log.append("-")


async def test_the_newest_is_stable_where_nothing_is_said(folder: Path) -> None:
    opened = Opened(folder)
    assert await opened.versions.refresh()
    assert opened.versions.labels == {"stable": "10"}
    version, model = opened.versions.get(None)
    assert (version, model.version) == ("10", version_of(load_manifest(folder / "10")))
    assert not await opened.versions.refresh()
    assert opened.log == ["+10"]


async def test_labels_change_over_and_back(folder: Path) -> None:
    opened = Opened(folder)
    write_labels(folder, {"stable": "2"})
    await opened.versions.refresh()
    write_labels(folder, {"canary": "9"})
    assert await opened.versions.refresh()
    assert [opened.versions.get(name)[0] for name in (None, "stable", "canary", "9")] == [
        "2", "2", "9", "9",
    ]  # fmt: skip
    write_labels(folder, {"stable": "9", "canary": ""})
    assert await opened.versions.refresh()
    assert opened.versions.labels == {"stable": "9"}
    with pytest.raises(VersionError, match="no version '2'; there are 9, by labels stable=9"):
        opened.versions.get("2")
    write_labels(folder, {"stable": "2"})
    assert await opened.versions.refresh()
    assert opened.log == ["+2", "+9", "-", "+2", "-"]
    await opened.versions.close()
    assert opened.log[-1] == "-"


async def test_a_version_that_is_not_whole_leaves_the_old_one(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = Opened(folder)
    write_labels(folder, {"stable": "2"})
    await opened.versions.refresh()
    content = (folder / "9" / "arena.bin").read_bytes()
    (folder / "9" / "arena.bin").write_bytes(content[:-1])
    (folder / "labels.json").write_text('{"stable": "9"}')
    for _ in range(3):
        assert not await opened.versions.refresh()
    assert opened.versions.get(None)[0] == "2"
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == [
        f"9 is not loaded, what was there stays: {folder}/9/arena.bin is damaged: its checksum is "
        "not the manifest's"
    ]
    # Mended, and its manifest written last as ever.
    (folder / "9" / "arena.bin").write_bytes(content)
    manifest = folder / "9" / "manifest.json"
    os.utime(manifest, ns=(0, manifest.stat().st_mtime_ns + 1))
    assert await opened.versions.refresh()
    assert opened.versions.get(None)[0] == "9"


async def test_broken_labels_leave_everything_as_it_was(folder: Path) -> None:
    opened = Opened(folder)
    write_labels(folder, {"stable": "2"})
    await opened.versions.refresh()
    for content in ("{", "[]", '{"canary": "2"}', '{"stable": "7"}', '{"stable": 2}'):
        (folder / "labels.json").write_text(content)
        assert not await opened.versions.refresh()
    assert opened.versions.labels == {"stable": "2"}
    with pytest.raises(ModelError, match="stable means 2; there are 2, 9, 10"):
        await Opened(folder).versions.refresh()


async def test_a_first_version_that_is_not_whole_stops_the_start(folder: Path) -> None:
    (folder / "10" / "arena.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"10/arena\.bin is damaged"):
        await Opened(folder).versions.refresh()


async def test_a_folder_that_is_a_model_has_one_version(folder: Path) -> None:
    opened = Opened(folder / "9")
    await opened.versions.refresh()
    own = version_of(load_manifest(folder / "9"))
    assert opened.versions.labels == {"stable": own}
    with pytest.raises(ModelError, match="is one version itself"):
        write_labels(folder / "9", {"canary": own})


def test_unfinished_folders_are_no_versions(folder: Path) -> None:
    (folder / "11").mkdir()
    (folder / "12 of today").mkdir()
    (folder / "12 of today" / "manifest.json").touch()
    assert list(versions_in(folder)) == ["2", "9", "10"]
    with pytest.raises(ModelError, match="nor versions"):
        versions_in(folder / "11")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stable": "7"}, "stable means '7'; there are 2, 9, 10"),
        ({"stable": ""}, "there must be stable"),
        ({"a b": "2"}, "'a b' is no label"),
        ({"9": "2"}, "'9' is no label"),
        ({f"l{i}": "2" for i in range(20)}, "at most 16 labels"),
    ],
)
def test_labels_that_mean_nothing_are_refused(
    folder: Path, changes: dict[str, str], sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        write_labels(folder, changes)
    assert read_labels(folder) == {"stable": "10"}


def test_the_command_shows_and_sets_labels(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(*arguments: str) -> list[list[str]]:
        assert main([str(folder), *arguments]) == 0
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    assert shown() == [["2"], ["9"], ["10", "stable"]]
    assert shown("stable=9", "canary=10") == [["2"], ["9", "stable"], ["10", "canary"]]
    assert json.loads((folder / "labels.json").read_text()) == {"canary": "10", "stable": "9"}
    assert shown("canary=") == [["2"], ["9", "stable"], ["10"]]
    (folder / "2" / "arena.bin").write_bytes(b"")
    assert main([str(folder), "stable=2"]) == 1
    assert "arena.bin is damaged" in capsys.readouterr().err
    refuses: Callable[[list[str]], int] = main
    with pytest.raises(SystemExit):
        refuses([str(folder), "stable"])
    assert "stable says no version" in capsys.readouterr().err
