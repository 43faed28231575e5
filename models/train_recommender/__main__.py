"""python -m models.train_recommender: from the installed Python sources to models/import-next.

Stages: harvest (kept in --work and read back), examples, training, evaluation by the code that
serves, folder and model card.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from models.train_recommender import evaluation, harvest, network, shipping
from models.train_recommender.dataset import Example, Names, gather_names, make_examples
from models.train_recommender.harvest import SourceFile
from services.recommender.folder import load_model

SEED = 2010_05894
SPLITS = ("train", "validation", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/train_recommender"))
    parser.add_argument("--out", type=Path, default=Path("models/import-next"))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)

    files = _harvest(arguments.work)
    splits = {split: [f for f in files if f.split == split] for split in SPLITS}
    names = gather_names(splits["train"])
    made = {split: make_examples(splits[split], names) for split in SPLITS}
    examples = {split: examples for split, (examples, _) in made.items()}
    print(
        f"{len(names.modules)} modules, {len(names.packages)} packages; examples: "
        + ", ".join(f"{split} {len(e)}" for split, e in examples.items())
    )
    started = time.monotonic()
    trained, best_epoch = _train(names, examples, arguments.epochs)
    minutes = (time.monotonic() - started) / 60

    layout = shipping.write_model(trained, names, arguments.out)
    model = load_model(arguments.out, num_threads=arguments.threads)
    scorers = {
        "import-next": evaluation.served(model),
        "popularity": evaluation.popularity(names),
        "popularity within the package": evaluation.popularity_in_package(names, splits["train"]),
    }
    figures = {}
    for name, scorer in scorers.items():
        with tqdm(total=len(examples["test"]), desc=name) as bar:
            figures[name] = evaluation.evaluate(
                scorer, examples["test"], lambda done, bar=bar: bar.update(done - bar.n)
            )
        print(name, figures[name])
    story = shipping.Story(
        seed=SEED,
        num_files={split: len(splits[split]) for split in SPLITS},
        num_examples={split: len(examples[split]) for split in SPLITS},
        num_missed=made["test"][1],
        packages=[
            f"{package or 'standard library, top level'} ({count})"
            for package, count in Counter(f.package.split(".")[0] for f in files).most_common(12)
        ],
        epochs=arguments.epochs,
        best_epoch=best_epoch,
        minutes=minutes,
        figures=figures,
    )
    shipping.write_card(arguments.out, layout, names, story)
    print(f"{arguments.out}: version {model.version}")


def _harvest(work: Path) -> list[SourceFile]:
    """The files, from the last harvest if there is one."""
    kept = work / "files.json"
    if kept.exists():
        return [SourceFile(p, q, tuple(imports)) for p, q, imports in json.loads(kept.read_text())]
    files = []
    with tqdm(desc="harvest", unit=" files") as bar:
        files = harvest.harvest(harvest.installed_roots(), lambda done: bar.update(done - bar.n))
    work.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps([list(asdict(file).values()) for file in files]))
    return files


def _train(
    names: Names, examples: dict[str, list[Example]], num_epochs: int
) -> tuple[network.Network, int]:
    """The network of the epoch with the best recall on the validation files."""
    rows = torch.from_numpy(shipping.candidate_rows(names)).long()
    trained = network.Network(names, rows)
    print(f"{sum(p.numel() for p in trained.parameters())} parameters")
    everything = torch.arange(len(names.modules))
    best: tuple[float, int, dict[str, torch.Tensor]] = (-1.0, 0, {})

    def score(chunk: list[Example]) -> np.ndarray:
        with torch.no_grad():
            return trained(network.inputs_of(chunk), everything).numpy()

    def end_epoch(epoch: int, loss: float) -> None:
        nonlocal best
        trained.eval()
        figures = evaluation.evaluate(score, examples["validation"])
        print(f"epoch {epoch}: loss {loss:.3f}, validation {figures}", flush=True)
        if figures.recall_at_10 > best[0]:
            best = (figures.recall_at_10, epoch, copy.deepcopy(trained.state_dict()))

    num_batches = num_epochs * -(-len(examples["train"]) // network.BATCH)
    with tqdm(total=num_batches, desc="train", unit="batch", mininterval=10) as bar:
        counts = names.counts
        network.train(trained, examples["train"], counts, num_epochs, SEED, bar.update, end_epoch)
    trained.load_state_dict(best[2])
    trained.eval()
    return trained, best[1]


if __name__ == "__main__":
    sys.exit(main())
