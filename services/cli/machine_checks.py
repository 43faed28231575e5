"""The checks of `doctor` that look at this machine: Python, packages, CPU, memory, port, disk."""

from __future__ import annotations

import http.client
import platform
import re
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from services.cli.findings import Finding, fail, ok, warn
from shared.machine import num_usable_cores

PYTHON = (3, 11)
EXTRAS = ("gateway", "verifier", "drafter", "recommender", "cpu", "cli")
"""Whose packages a machine that runs everything has."""
INSTEAD = {"onnxruntime": ("onnxruntime-gpu",)}
LOW_DISK, NO_DISK = 2 << 30, 100 << 20
_REQUIREMENT = re.compile(
    r"^(?P<name>[\w.-]+)[^;>=<]*(?:>=(?P<least>[\d.]+))?[^;]*"
    r"(?:;.*extra == ['\"](?P<extra>[\w-]+)['\"])?"
)


def python() -> Finding:
    version = platform.python_version()
    if sys.version_info < PYTHON:
        return fail("Python", version, f"Quorum needs {PYTHON[0]}.{PYTHON[1]} or newer")
    return ok("Python", f"{version} on {platform.platform(terse=True)}")


def packages(requirements: Sequence[str] | None = None) -> Iterator[Finding]:
    """Whether what Quorum's package asks for is installed, in the versions that it asks for."""
    try:
        given = metadata.requires("quorum") or [] if requirements is None else requirements
    except metadata.PackageNotFoundError:
        yield warn("packages", "quorum itself is not installed", "pip install -c constraints.txt .")
        return
    missing: dict[str, list[str]] = {}
    num_found = 0
    for requirement in given:
        parts = _REQUIREMENT.match(requirement)
        if parts is None or parts["name"] == "quorum" or (parts["extra"] or "cli") not in EXTRAS:
            continue
        name, least = parts["name"], parts["least"] or "0"
        version = _version(name)
        if version is None:
            missing.setdefault(parts["extra"] or "", []).append(name)
        elif _numbers(version) < _numbers(least):
            yield fail("packages", f"{name} {version}, needed is {least}", "pip install -U " + name)
        else:
            num_found += 1
    for extra, names in missing.items():
        what = f".[{extra}]" if extra else "."
        yield warn(
            "packages",
            f"{', '.join(names)} not installed",
            f"pip install -c constraints.txt '{what}' for what needs it",
        )
    if num_found:
        yield ok("packages", f"{num_found} of the versions that are needed")


def cpu(information: str | None = None) -> Finding:
    """By /proc/cpuinfo."""
    text = _read("/proc/cpuinfo") if information is None else information
    flags = set(
        re.findall(r"[\w]+", " ".join(re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.M)))
    )
    if flags & {"avx512_vnni", "avx_vnni"}:
        return ok("CPU", "VNNI: int8 models run at their fastest")
    if "avx2" in flags:
        return ok("CPU", "AVX2")
    if "asimd" in flags:
        return ok("CPU", "Arm NEON" + (" with dot products" if "asimddp" in flags else ""))
    if not flags:
        return warn("CPU", "its features are not told here", "see that it has AVX2")
    return warn("CPU", "no AVX2", "it works, several times slower than on a CPU of the last decade")


def threads(settings: Mapping[str, str], num_cores: int | None = None) -> Finding:
    """Whether the models' threads find cores of their own."""
    cores = num_usable_cores() if num_cores is None else num_cores
    wanted = {
        name.removesuffix("_NUM_THREADS").lower(): int(value)
        for name, value in settings.items()
        if name.endswith("_NUM_THREADS")
    }
    told = ", ".join(f"{name} {count or 'all'}" for name, count in wanted.items())
    if max(wanted.values(), default=0) > cores:
        return warn(
            "threads",
            f"{told}, of {cores} cores",
            "more threads than cores wait for each other: lower ..._NUM_THREADS",
        )
    return ok("threads", f"{cores} cores" + (f"; {told}" if told else ""))


def huge_pages(setting: str | None = None) -> Finding:
    """Of the kernel, for tables of embeddings."""
    path = "/sys/kernel/mm/transparent_hugepage/enabled"
    text = _read(path) if setting is None else setting
    chosen = re.search(r"\[(\w+)\]", text)
    if chosen is None:
        return warn("huge pages", "not told by this system", "recommendations may be slower here")
    if chosen[1] == "never":
        return warn(
            "huge pages",
            "off, lookups take two to three times as long",
            f"as root: echo madvise > {path}",
        )
    return ok("huge pages", f"the kernel gives them ({chosen[1]})")


def port(host: str, number: int) -> Finding:
    """Whether the gateway could listen, or listens already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
            return ok("port", f"{number} on {host} is free")
        except OSError as error:
            reason = error.strerror or str(error)
    if _is_quorum(host, number):
        return ok("port", f"{number} on {host}: Quorum answers there")
    return fail("port", f"{number} on {host}: {reason}", "set GATEWAY_PORT to another")


def disk(folder: Path, free: int | None = None) -> Finding:
    """Where the folder is, or would be."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free if free is None else free
    text = f"{free / (1 << 30):.1f} GiB free at {there}"
    if free < NO_DISK:
        return fail("disk", text, "make room")
    if free < LOW_DISK:
        return warn("disk", text, "exporting a model takes more")
    return ok("disk", text)


def _is_quorum(host: str, number: int) -> bool:
    connection = http.client.HTTPConnection(host, number, timeout=2)
    try:
        connection.request("GET", "/health/live")
        return b'"live"' in connection.getresponse().read(1000)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _version(name: str) -> str | None:
    for each in (name, *INSTEAD.get(name, ())):
        try:
            return metadata.version(each)
        except metadata.PackageNotFoundError:
            continue
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
