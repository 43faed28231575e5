"""Speculation changes no token of the shipped models either: 200 prompts of real text."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from models.train.corpus import documents
from services.verifier.export import export
from shared.config import BusConfig
from tests.test_lossless import NUM_PROMPTS, SAMPLINGS, Case, Family, check, write_texts

pytestmark = [pytest.mark.reference, pytest.mark.timeout(900)]

MODELS = Path(__file__).parent.parent.parent / "models"
CASES = (
    Case("all drafters", num_cases=NUM_PROMPTS * len(SAMPLINGS), min_acceptance=1.3),
    Case("one drafter", drafters="small", num_cases=60, reuses=False),
    Case("long drafts", voter={"fixed_length": 10}, num_cases=60, min_acceptance=1.3, reuses=False),
)


@pytest.fixture(scope="module", params=["fp32", "int8"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "small").symlink_to(MODELS / "quorum-draft-small")
    (folder / "wide").symlink_to(MODELS / "quorum-draft-wide")
    export(str(MODELS / "quorum-6m"), folder / "target", request.param)
    tokenizer = Tokenizer.from_file(str(MODELS / "quorum-6m" / "tokenizer.json"))
    texts = (d.text for d in documents() if d.is_held_out)
    prompts = [tokenizer.encode(text[:300]).ids[: 8 + number % 50] for number, text in
               zip(range(NUM_PROMPTS), texts, strict=False)]  # fmt: skip
    return write_texts(folder, prompts)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_texts_equal_plain_decoding(family: Family, case: Case) -> None:
    await check(family, case, BusConfig())
