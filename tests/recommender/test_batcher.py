"""The batcher: whatever waits is scored together, and a failure ends only its own batch."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from prometheus_client import REGISTRY

from services.recommender.batcher import Batcher
from services.recommender.folder import load_model
from services.recommender.model import Model
from services.recommender.query import Query
from tests.recommender.toy import ITEMS, write_toy


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("recommender") / "toy"
    write_toy(folder)
    return load_model(folder, slice_rows=64, num_threads=1)


def num_batches() -> float:
    return REGISTRY.get_sample_value("scoring_requests_count") or 0


async def test_what_waits_is_scored_in_one_batch(model: Model) -> None:
    batcher = Batcher()
    queries = [model.read({"place": ["x"]}, [item]).query for item in ITEMS]
    before = num_batches()
    answers = [asyncio.create_task(batcher.score(model, query)) for query in queries]
    running = asyncio.create_task(_after_all_wait(batcher, answers))
    scores = await asyncio.gather(*answers)
    assert num_batches() - before == 1
    for query, got in zip(queries, scores, strict=True):
        assert np.array_equal(model.score([query])[0][0], got[0])
    running.cancel()
    batcher.close()


async def test_a_failed_batch_fails_its_requests_and_the_next_is_scored(model: Model) -> None:
    batcher = Batcher()
    running = asyncio.create_task(batcher.run())
    sound = model.read({}, ["a"]).query
    broken = Query(1, [(slice(0, 2), np.zeros((1, 3), np.int64))])
    with pytest.raises(ValueError, match="broadcast"):
        await batcher.score(model, broken)
    assert [len(output) for output in await batcher.score(model, sound)] == [1]
    running.cancel()
    batcher.close()


async def test_of_a_failed_batch_only_who_is_at_fault_fails(model: Model) -> None:
    batcher = Batcher()
    sound = [model.read({"place": ["x"]}, [item]).query for item in ITEMS]
    broken = Query(1, [(slice(0, 2), np.zeros((1, 3), np.int64))])
    queries = [*sound[:3], broken, *sound[3:]]
    answers = [asyncio.create_task(batcher.score(model, query)) for query in queries]
    running = asyncio.create_task(_after_all_wait(batcher, answers))
    found = await asyncio.gather(*answers, return_exceptions=True)
    assert isinstance(found.pop(3), ValueError)
    for query, got in zip(sound, found, strict=True):
        assert isinstance(got, list)
        assert np.array_equal(model.score([query])[0][0], got[0])
    running.cancel()
    batcher.close()


async def _after_all_wait(batcher: Batcher, answers: list[asyncio.Task[list[np.ndarray]]]) -> None:
    """The tasks above were made first, so all of them wait when this one runs."""
    assert not any(answer.done() for answer in answers)
    await batcher.run()
