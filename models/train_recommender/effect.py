"""python -m models.train_recommender.effect MODEL OTHER [--installed]

Recall@10 and AUC of two models with the same names, as one in fp32 and in int8
(services.recommender.quantize), on the held-out files of the standard library (a minute), or also
of the packages installed beside it (minutes).
"""

from __future__ import annotations

import sys
from pathlib import Path

from models.train_recommender import evaluation, harvest
from models.train_recommender.dataset import CONTEXT_FIELDS, Example, Names, make_examples
from models.train_recommender.evaluation import Figures
from models.train_recommender.harvest import SourceFile
from services.recommender.folder import load_model
from services.recommender.manifest import load_manifest
from shared.command_line import parser_of
from shared.errors import ModelError


def read_names(folder: Path) -> Names:
    """A served model's vocabularies; nobody counted. Raises ModelError if it has others."""
    fields = {field.name: field.vocabulary for field in load_manifest(folder).context_fields}
    if fields != {field.name: field.vocabulary for field in CONTEXT_FIELDS}:
        raise ModelError(
            f"{folder} has context fields {', '.join(fields)}; needed are those of import-next: "
            f"{', '.join(field.name for field in CONTEXT_FIELDS)}"
        )
    modules, packages, roots = (
        (folder / file).read_text(encoding="utf-8").splitlines()
        for file in ("modules.txt", "packages.txt", "roots.txt")
    )
    return Names(modules, packages, roots, [])


def compare(model: Path, other: Path, files: list[SourceFile]) -> tuple[int, Figures, Figures]:
    """On the test split: how many imports, and the figures of each model. Raises ModelError if
    they have different names, or if there is nothing to rank."""
    names = read_names(model)
    if read_names(other) != names:
        raise ModelError(f"{model} and {other} have different vocabularies")
    examples, _ = make_examples([file for file in files if file.split == "test"], names)
    if not examples:
        raise ModelError(f"no held-out file imports a module that {model} knows")
    return len(examples), _figures(model, examples), _figures(other, examples)


def _figures(folder: Path, examples: list[Example]) -> Figures:
    model = load_model(folder, num_threads=1)
    total = len(examples)
    return evaluation.evaluate(
        evaluation.served(model), examples, lambda done: _show(f"{folder}: {done} of {total}")
    )


def _show(what: str) -> None:
    print(f"\r{what:70}", end="", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """The command. Returns its exit code."""
    parser = parser_of("models.train_recommender.effect", __doc__)
    parser.add_argument("model", type=Path, help="folder of a served model")
    parser.add_argument("other", type=Path, help="folder of the model to compare with it")
    parser.add_argument("--installed", action="store_true", help="packages, too")
    arguments = parser.parse_args(argv)
    library, packages = harvest.installed_roots()
    roots = [library, packages] if arguments.installed else [library]
    try:
        files = harvest.harvest(roots, lambda done: _show(f"harvest: {done} files"))
        number, first, second = compare(arguments.model, arguments.other, files)
    except ModelError as error:
        print(f"\neffect: {error}", file=sys.stderr)
        return 1
    print(file=sys.stderr)
    print(f"{number} imports of held-out files")
    for folder, figures in ((arguments.model, first), (arguments.other, second)):
        print(f"{folder}: recall@10 {figures.recall_at_10:.4f}, AUC {figures.auc:.5f}")
    print(
        f"difference: recall@10 {second.recall_at_10 - first.recall_at_10:+.4f}, AUC "
        f"{second.auc - first.auc:+.5f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
