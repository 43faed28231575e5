"""A grown model computes what the one that it was grown from computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import grow
from services.verifier.export import export
from shared.lm.decoder import Row, load_decoder

pytestmark = [pytest.mark.reference, pytest.mark.timeout(300)]

SOURCE = Path("models/quorum-draft-small")


def test_a_grown_model_has_the_logits_of_its_source(tmp_path: Path) -> None:
    config, weights = grow.grow(*grow.read(SOURCE), grow.Size(hidden=256, mlp=512, layers=3))
    assert config["num_hidden_layers"] == 3
    grow.save(config, weights, SOURCE, tmp_path / "grown")
    export(str(tmp_path / "grown"), tmp_path / "exported")
    text = np.random.default_rng(0).integers(2, 4096, 60).tolist()
    small, grown = (
        load_decoder(folder, max_slots=1, num_threads=1).forward([Row(0, 0, text, 60)])[0]
        for folder in (SOURCE, tmp_path / "exported")
    )
    assert 0 < np.abs(small - grown).max() < 1e-3
    assert np.array_equal(small.argmax(axis=1), grown.argmax(axis=1))
