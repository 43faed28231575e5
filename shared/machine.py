"""The machine that a process runs on."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def machine_id() -> str:
    """The same in all processes and containers that share a kernel, another one elsewhere."""
    return _BOOT_ID.read_text().strip() if _BOOT_ID.is_file() else socket.gethostname()


def num_usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
