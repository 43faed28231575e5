"""The trained network and the folder that serves it are the same function."""

from pathlib import Path

import numpy as np
import pytest

from models.train_recommender.dataset import gather_names, make_examples
from models.train_recommender.evaluation import evaluate, popularity, served
from models.train_recommender.harvest import SourceFile
from services.recommender.folder import load_model


@pytest.mark.reference
def test_the_served_model_scores_as_the_network_does_and_has_learned(tmp_path: Path) -> None:
    import torch

    from models.train_recommender import network, shipping

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    files = [
        SourceFile(f"{p}/{i}.py", p, tuple(f"{p}.m{j}" for j in rng.permutation(12)[:5]))
        for i in range(60)
        for p in ("p", "q", "r", "s")
    ]
    names = gather_names(files)
    examples, num_missed = make_examples(files, names)
    assert num_missed == 0
    rows = torch.from_numpy(shipping.candidate_rows(names)).long()
    trained = network.Network(names, rows)
    losses: list[float] = []
    network.train(
        trained, examples, names.counts, 10, 0, lambda: None, lambda _, loss: losses.append(loss)
    )
    assert losses[-1] < losses[0]
    trained.eval()
    shipping.write_model(trained, names, tmp_path / "m")
    scorer = served(load_model(tmp_path / "m", num_threads=1))
    with torch.no_grad():
        inputs = network.inputs_of(examples[:40])
        expected = trained(inputs, torch.arange(len(names.modules))).numpy()
    np.testing.assert_allclose(scorer(examples[:40]), expected, rtol=1e-4, atol=1e-4)
    assert evaluate(scorer, examples).auc > evaluate(popularity(names), examples).auc + 0.1
