"""The shipped graphs compute what transformers computes from their weights."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from shared.lm.decoder import Row, load_decoder
from shared.lm.manifest import load_manifest

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.reference, pytest.mark.timeout(300)]

MODELS = Path(__file__).parent.parent.parent / "models"
NAMES = ("quorum-6m", "quorum-draft-small", "quorum-draft-wide")
TEXT = "import os\n\ndef read_lines(path):\n    with open(path) as file:\n        return [" * 12


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from models.train import family, shipped
    (member,) = (m for m in (family.TARGET, *family.DRAFTERS) if m.name == name)
    model = shipped.load(member, MODELS / name).eval()
    ids = Tokenizer.from_file(str(MODELS / name / "tokenizer.json")).encode(TEXT).ids
    decoder = load_decoder(MODELS / name, max_slots=1, num_threads=2)
    (logits,) = decoder.forward([Row(0, 0, ids, len(ids))])
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    assert len(ids) > 200
    assert np.abs(expected - logits).max() < 1e-3
    assert expected.std() > 1


def test_the_family_shares_its_tokenizer_and_fits_in_the_repository() -> None:
    checksums = {load_manifest(MODELS / name).files["tokenizer.json"] for name in NAMES}
    assert len(checksums) == 1
    folders = (*NAMES, "import-next")
    size = sum(f.stat().st_size for name in folders for f in (MODELS / name).iterdir())
    assert size < 48 << 20
