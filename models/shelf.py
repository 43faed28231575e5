"""How models come among those of a folder, and how they are listed: in one step, whoever else is at
work there, and whatever interrupts it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from shared import served

STAGING, LOCK = ".adding-", "lock"


def served_in(out: Path) -> list[served.Target]:
    """The targets that a folder of models lists, if it does."""
    return served.read(out) if served.is_list(out) else []


@contextmanager
def listed(out: Path) -> Iterator[dict[str, served.Target]]:
    """The targets that are served, by name, to be changed: one process at a time. Running services
    see the new list within a second or so."""
    handle = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        targets = {target.name: target for target in served_in(out)}
        yield targets
        served.write(out, list(targets.values()))
    finally:
        os.close(handle)


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A folder on the models' own file system, gone afterwards. Those that nobody works in any
    more, because their process was killed, go as well."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob(f"{STAGING}*/{LOCK}"):
        with old.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(old.parent, ignore_errors=True)
    with TemporaryDirectory(dir=out, prefix=STAGING) as name, (Path(name) / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)


def show(folders: Sequence[Path], out: Path) -> None:
    """Moves the folders to where they are found, all of them or none."""
    moves: list[tuple[Path, Path]] = []
    try:
        for folder in folders:
            final = out / folder.name
            if final.exists():
                before = folder.with_name(f".before-{folder.name}")
                final.rename(before)
                moves.append((final, before))
            folder.rename(final)
            moves.append((folder, final))
    except BaseException:
        for source, there in reversed(moves):
            there.rename(source)
        raise
