"""The trained network as a folder that the recommender serves, and its model card."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

import numpy as np

from models.train_recommender import harvest
from models.train_recommender.dataset import (
    CONTEXT_FIELDS,
    MIN_FILES_OF_A_MODULE,
    Names,
)
from models.train_recommender.evaluation import Figures
from models.train_recommender.network import DIM, HIDDEN, NUM_CANDIDATE_FIELDS, Network
from services.recommender.graph import Dots, write_graph
from services.recommender.layout import Catalogue, Layout
from services.recommender.planning import Limits
from services.recommender.profile_file import DEFAULT, read_profile
from services.recommender.restructure import read_source, restructure
from services.recommender.source import CandidateField, Description, save_description

MLP_FILE = "mlp.onnx"
ROWS_FILE = "catalogue.npy"


def candidate_rows(names: Names) -> np.ndarray:
    """Rows [num_modules, 2] of each module in the tables `module` and `module_root`."""
    roots = {root: row for row, root in enumerate(names.roots, 1)}
    rows = [(row, roots[m.partition(".")[0]]) for row, m in enumerate(names.modules, 1)]
    return np.array(rows, np.int32)


def write_model(network: Network, names: Names, out: Path) -> Layout:
    """Writes the folder that is served, restructured from one of the weights as they are."""
    with TemporaryDirectory() as temporary:
        trained = Path(temporary)
        _write_source(network, names, trained)
        out.mkdir(parents=True, exist_ok=True)
        for old in out.iterdir():
            old.unlink()
        profile = read_profile(DEFAULT)
        layout, _ = restructure(
            read_source(trained), out, profile, Limits(), lambda share, what: None
        )
    return layout


def _write_source(network: Network, names: Names, out: Path) -> None:
    for name, table in network.tables().items():
        np.save(out / f"{name}.npy", table)
    for file in sorted({str(field.vocabulary) for field in CONTEXT_FIELDS}):
        (out / file).write_text("".join(f"{name}\n" for name in names.of(file)))
    np.save(out / ROWS_FILE, candidate_rows(names))
    num_fields = len(CONTEXT_FIELDS) + NUM_CANDIDATE_FIELDS
    dots = Dots(len(CONTEXT_FIELDS), NUM_CANDIDATE_FIELDS, DIM)
    write_graph(out / MLP_FILE, num_fields * DIM, network.layers(), dots)
    description = Description(
        dense=MLP_FILE,
        context_fields=CONTEXT_FIELDS,
        candidate_fields=[
            CandidateField("module", "module"),
            CandidateField("module_root", "module_root"),
        ],
        catalogue=Catalogue(names="modules.txt", rows=ROWS_FILE, exclude="imports"),
    )
    save_description(description, out)


@dataclass(frozen=True, slots=True)
class Story:
    """What the card tells of a training."""

    seed: int
    num_files: dict[str, int]
    num_examples: dict[str, int]
    num_missed: int
    packages: list[str]
    epochs: int
    best_epoch: int
    minutes: float
    figures: dict[str, Figures]


def write_card(out: Path, layout: Layout, names: Names, story: Story) -> None:
    """README.md: data, licence, sizes, figures beside the baselines, limits."""
    size = sum(file.stat().st_size for file in out.iterdir() if file.suffix != ".md")
    num_test, num_missed = story.num_examples["test"], story.num_missed
    tables = [f"| `{table.name}` | {table.num_rows} | {table.dim} |" for table in layout.tables]
    figures = [
        f"| {name} | {f.recall_at_10:.3f} | {f.auc:.3f} |" for name, f in story.figures.items()
    ]
    card = Template(Path(__file__).with_name("card.md").read_text()).substitute(
        megabytes=f"{size / 1e6:.1f}",
        num_test_files=story.num_files["test"],
        num_test_examples=num_test,
        num_train_examples=story.num_examples["train"],
        num_modules=len(names.modules),
        figures="\n".join(figures),
        num_missed=num_missed,
        percent_missed=round(100 * num_missed / (num_test + num_missed)),
        min_files=MIN_FILES_OF_A_MODULE,
        num_files=sum(story.num_files.values()),
        python=platform.python_version(),
        max_files=harvest.MAX_FILES_OF_A_PACKAGE,
        test_percent=harvest.TEST_PERCENT,
        validation_percent=harvest.VALIDATION_PERCENT,
        packages=", ".join(story.packages),
        tables="\n".join(tables),
        num_features=layout.num_features,
        layers=" and ".join(map(str, HIDDEN)),
        best_epoch=story.best_epoch,
        epochs=story.epochs,
        seed=story.seed,
        minutes=round(story.minutes),
    )
    (out / "README.md").write_text(card)
