"""The batcher: whatever waits is scored together, and a failure ends only its own batch."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from prometheus_client import REGISTRY

from services.recommender.batcher import Batcher
from services.recommender.folder import load_model
from services.recommender.model import Model, Query
from tests.recommender.toy import ITEMS, write_toy


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("recommender") / "toy"
    write_toy(folder)
    return load_model(folder, max_rows=64, num_threads=1)


def num_batches() -> float:
    return REGISTRY.get_sample_value("scoring_requests_count") or 0


async def test_what_waits_is_scored_in_one_batch(model: Model) -> None:
    batcher = Batcher(model)
    queries = [model.read({"place": ["x"]}, [item]) for item in ITEMS]
    before = num_batches()
    answers = [asyncio.create_task(batcher.score(query)) for query in queries]
    running = asyncio.create_task(_after_all_wait(batcher, answers))
    scores = await asyncio.gather(*answers)
    assert num_batches() - before == 1
    for query, got in zip(queries, scores, strict=True):
        assert np.array_equal(model.score([query])[0], got)
    running.cancel()
    batcher.close()


async def test_a_failed_batch_fails_its_requests_and_the_next_is_scored(model: Model) -> None:
    batcher = Batcher(model)
    running = asyncio.create_task(batcher.run())
    sound = model.read({}, ["a"])
    broken = Query(sound.context, np.array([10**6]))
    with pytest.raises(IndexError):
        await batcher.score(broken)
    assert len(await batcher.score(sound)) == 1
    running.cancel()
    batcher.close()


async def _after_all_wait(batcher: Batcher, answers: list[asyncio.Task[np.ndarray]]) -> None:
    """The tasks above were made first, so all of them wait when this one runs."""
    assert not any(answer.done() for answer in answers)
    await batcher.run()
