"""Source files to examples: at each import of a file, what came before it, and what came.

Names become rows by the functions that serve requests (services/recommender/features.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.train_recommender.harvest import SourceFile
from services.recommender.features import NamedRows, derive, rows_of
from services.recommender.source import ContextField

IntArray = npt.NDArray[np.int64]
MIN_FILES_OF_A_MODULE = 3
MIN_FILES_OF_A_PACKAGE = 2

CONTEXT_FIELDS = [
    ContextField("package", "package", "parents", "mean", "package", "packages.txt", "default"),
    ContextField("imports", "imports", "all", "mean", "import", "modules.txt", "default"),
    ContextField("last_import", "imports", "last", "sum", "last", "modules.txt", "default"),
    ContextField("import_roots", "imports", "roots", "mean", "import_root", "roots.txt", "default"),
]


@dataclass(frozen=True, slots=True)
class Names:
    """The vocabularies, each name's row being its place plus one (row 0: all others). `counts`
    are the training files that import each module."""

    modules: list[str]
    packages: list[str]
    roots: list[str]
    counts: list[int]

    def of(self, file: str | None) -> list[str]:
        """The content of a vocabulary file."""
        return {
            "modules.txt": self.modules,
            "packages.txt": self.packages,
            "roots.txt": self.roots,
        }[str(file)]


@dataclass(frozen=True, slots=True)
class Example:
    """Before one import: rows of each context field. `target` is the module's place."""

    rows: list[list[int]]
    imported: list[int]
    target: int
    package: str


def gather_names(files: Iterable[SourceFile]) -> Names:
    """What enough files of the training split have in common; most frequent first, then by name."""
    files = list(files)
    modules = Counter(module for file in files for module in file.imports)
    packages = Counter(name for file in files for name in derive([file.package], "parents") if name)
    kept = _frequent(modules, MIN_FILES_OF_A_MODULE)
    roots = derive(kept, "roots")
    return Names(
        kept, _frequent(packages, MIN_FILES_OF_A_PACKAGE), roots, [modules[m] for m in kept]
    )


def make_examples(
    files: Iterable[SourceFile], names: Names, report: Callable[[int], None] = lambda _: None
) -> tuple[list[Example], int]:
    """Examples in the order of the files, and how many imports are no module of the catalogue."""
    vocabularies = [NamedRows(names.of(f.vocabulary), first=1) for f in CONTEXT_FIELDS]
    places = {module: place for place, module in enumerate(names.modules)}
    examples, num_missed = [], 0
    for number, file in enumerate(files, 1):
        for position, module in enumerate(file.imports):
            target = places.get(module)
            if target is None:
                num_missed += 1
                continue
            before = list(file.imports[:position])
            context = {"package": [file.package] if file.package else [], "imports": before}
            rows = [
                rows_of(field, vocabulary, context[field.key])
                for field, vocabulary in zip(CONTEXT_FIELDS, vocabularies, strict=True)
            ]
            imported = [places[name] for name in before if name in places]
            examples.append(Example(rows, imported, target, file.package))
        if number % 1000 == 0:
            report(number)
    return examples, num_missed


def bags(examples: Sequence[Example], field: int) -> tuple[IntArray, IntArray]:
    """Rows of all examples end to end, and where each example's begin."""
    lengths = np.array([len(example.rows[field]) for example in examples], np.int64)
    flat = [row for example in examples for row in example.rows[field]]
    return np.array(flat, np.int64), np.cumsum(lengths) - lengths


def _frequent(counts: Counter[str], least: int) -> list[str]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [name for name, count in ordered if count >= least]
