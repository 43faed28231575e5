"""An arena file in memory, on huge pages where the machine gives them.

A random row costs a walk through the page tables besides its own cache line; with pages of 2 MiB
that walk stays in the caches. The file is mapped privately: processes of one host share one copy
of it, but for the pages that a process has written to (row updates).
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from shared.errors import ModelError

Memory = Literal["shared", "copied"]

HUGE_PAGE = 2 << 20
_CHUNK = 64 << 20
_POPULATE_READ = 22
"""MADV_POPULATE_READ, which Python's mmap has no name for (Linux 5.14)."""
_HUGE = re.compile(rb"^(?:AnonHugePages|ShmemPmdMapped|FilePmdMapped):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Arena:
    """`bytes` [size], writable for this process alone."""

    bytes: npt.NDArray[np.uint8]
    huge_bytes: int
    """Of it that lie on huge pages."""


def map_arena(file: Path, size: int, memory: Memory) -> Arena:
    """Maps the file, or copies it into memory of this process's own, which has huge pages on more
    machines. Every page is there when this returns. Raises ModelError for a shorter file."""
    actual = file.stat().st_size
    if actual < size:
        raise ModelError(f"{file} is cut off: {actual} of {size} bytes")
    with file.open("rb") as content:
        if memory == "copied":
            region = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        else:
            region = mmap.mmap(
                content.fileno(),
                size,
                flags=mmap.MAP_PRIVATE,
                prot=mmap.PROT_READ | mmap.PROT_WRITE,
            )
        _advise(region, mmap.MADV_HUGEPAGE)
        whole = np.frombuffer(region, np.uint8)
        first = -whole.ctypes.data % HUGE_PAGE if memory == "copied" else 0
        array = whole[first : first + size]
        if memory == "copied":
            for start in range(0, size, _CHUNK):
                content.readinto(array[start : start + _CHUNK].data)
        elif not _advise(region, _POPULATE_READ):
            int(array[:: mmap.PAGESIZE].sum())
    return Arena(array, min(size, _huge_bytes(whole.ctypes.data)))


def _advise(region: mmap.mmap, advice: int) -> bool:
    """Whether the kernel knows this advice."""
    try:
        region.madvise(advice)
    except OSError:
        return False
    return True


def _huge_bytes(address: int) -> int:
    """Of the mapping that begins at or before an address; 0 where the kernel does not say."""
    try:
        listing = Path("/proc/self/smaps").read_bytes()
    except OSError:
        return 0
    for entry in re.split(rb"\n(?=[0-9a-f]+-[0-9a-f]+ )", listing):
        start, _, rest = entry.partition(b"-")
        stop = rest.partition(b" ")[0]
        if int(start, 16) <= address < int(stop, 16):
            return sum(int(kib) << 10 for kib in _HUGE.findall(entry))
    return 0
