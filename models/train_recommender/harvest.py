"""Which modules Python files import, in order: read with `ast`, nothing is executed.

The files are those of the standard library and of the packages installed beside it. A hash of
its path puts a file into one of three splits. Knows no model.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sysconfig
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "validation", "test"]
TEST_PERCENT = 8
VALIDATION_PERCENT = 4
MAX_FILE_BYTES = 1_000_000
MAX_FILES_OF_A_PACKAGE = 900
"""No single large package may drown the others; which files stay is decided by their paths."""
SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__", "lib2to3"})


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file: the package it belongs to ("" at the top), and its imports in order, each once."""

    path: str
    package: str
    imports: tuple[str, ...]

    @property
    def split(self) -> Split:
        """The same for a path on every machine."""
        number = _number(self.path) % 100
        if number < TEST_PERCENT:
            return "test"
        return "validation" if number < TEST_PERCENT + VALIDATION_PERCENT else "train"


def installed_roots() -> list[Path]:
    """Where this interpreter finds the standard library and the installed packages."""
    paths = sysconfig.get_paths()
    return [Path(paths[key]) for key in ("stdlib", "purelib")]


def harvest(
    roots: Iterable[Path], report: Callable[[int], None] = lambda _: None
) -> list[SourceFile]:
    """All files that import at least one module, in a fixed order; copies of a file once. Each
    thousand files are reported."""
    found = []
    for number, parsed in enumerate(_parsed(roots), 1):
        found.append(parsed)
        if number % 1000 == 0:
            report(number)
    modules = {parsed.module for parsed in found}
    files = []
    for parsed in found:
        imports = tuple(dict.fromkeys(_imports(parsed.nodes, parsed.package, modules)))
        if imports:
            files.append(SourceFile(parsed.path, parsed.package, imports))
    return files


@dataclass(frozen=True, slots=True)
class _Parsed:
    path: str
    package: str
    module: str
    nodes: list[ast.Import | ast.ImportFrom]


def _parsed(roots: Iterable[Path]) -> Iterator[_Parsed]:
    seen: set[bytes] = set()
    taken: Counter[str] = Counter()
    for root in roots:
        # By hash, so that the files that stay of a large package are a fair sample of it.
        for path in sorted(_sources(root), key=lambda p: _number(_relative(p, root))):
            relative = _relative(path, root)
            package, module = _names(relative)
            top = module.partition(".")[0]
            if taken[top] >= MAX_FILES_OF_A_PACKAGE or path.stat().st_size > MAX_FILE_BYTES:
                continue
            content = path.read_bytes()
            digest = hashlib.sha256(content).digest()
            tree = _parse(content)
            if tree is None or digest in seen:
                continue
            seen.add(digest)
            taken[top] += 1
            nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
            nodes.sort(key=lambda n: (n.lineno, n.col_offset))
            yield _Parsed(relative, package, module, nodes)


def _sources(root: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(set(subfolders) - SKIPPED_FOLDERS)
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def _parse(content: bytes) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other people's string escapes
            return ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _imports(
    nodes: Iterable[ast.Import | ast.ImportFrom], package: str, modules: Set[str]
) -> Iterator[str]:
    """Absolute names of the imported modules."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            continue
        base = _absolute(node.module or "", node.level, package)
        if base == "__future__" or not base:
            continue
        # `from a import b` imports the module a.b if there is one, and else a name out of a.
        names = [f"{base}.{alias.name}" for alias in node.names]
        submodules = [name for name in names if name in modules]
        yield from submodules
        if len(submodules) < len(names):
            yield base


def _absolute(module: str, level: int, package: str) -> str:
    """The absolute name of a relative import; "" where it leaves its package."""
    if level == 0:
        return module
    parents = package.split(".") if package else []
    if level - 1 >= len(parents):
        return ""
    return ".".join([*parents[: len(parents) - level + 1], *([module] if module else [])])


def _names(relative: str) -> tuple[str, str]:
    """Package and module of a file."""
    parts = relative.removesuffix(".py").split("/")
    package = ".".join(parts[:-1])
    return package, package if parts[-1] == "__init__" else ".".join(parts)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _number(path: str) -> int:
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big")
