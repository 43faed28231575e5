"""The recommender on the bus: each request gets one terminal message, then it is forgotten."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from services.recommender.config import RecommenderConfig
from services.recommender.folder import load_model
from services.recommender.manifest import load_manifest
from services.recommender.model import Model
from services.recommender.service import RecommenderService, build
from shared.bus import Bus
from shared.config import BusConfig
from shared.config import load as load_config
from shared.errors import ConfigError, ModelError
from shared.messages import Failed, RecommendRequest, Scores
from shared.tensor_messages import DescribeRequest, Description, Outputs, ScoreRequest, Tensor
from shared.topics import recommend_requests, score_requests
from tests.recommender.toy import ITEMS, write_toy
from tests.system import running

TOPIC = recommend_requests("toy")
Context = dict[str, list[str]]


class Client:
    """Publishes requests as a gateway does and keeps every answer by request."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.inbox = f"gateway.test.{uuid.uuid4().hex}"
        self.answers: dict[str, asyncio.Queue[Scores | Failed | Outputs | Description]] = {}

    async def read(self) -> None:
        async with self.bus.receive(self.inbox) as messages:
            async for message in messages:
                assert isinstance(message, Scores | Failed | Outputs | Description)
                self.answers[message.request_id].put_nowait(message)

    async def submit(
        self, context: Context, candidates: list[str] | None, k: int, timeout_s: float = 30
    ) -> str:
        request_id = uuid.uuid4().hex
        self.answers[request_id] = asyncio.Queue()
        deadline = time.time() + timeout_s
        request = RecommendRequest(request_id, self.inbox, context, candidates, k, deadline)
        await self.bus.publish(TOPIC, request)
        return request_id

    async def ask(
        self,
        context: Context,
        candidates: list[str] | None = None,
        k: int = 3,
        timeout_s: float = 30,
    ) -> Scores | Failed:
        answer = await self.answer(await self.submit(context, candidates, k, timeout_s))
        assert isinstance(answer, Scores | Failed)
        return answer

    async def score(
        self,
        inputs: dict[str, np.ndarray],
        is_typed: bool = True,
        version: str | None = None,
        timeout_s: float = 30,
    ) -> Outputs | Failed:
        request_id = uuid.uuid4().hex
        self.answers[request_id] = asyncio.Queue()
        tensors = {n: Tensor(a.dtype.name, list(a.shape), a.tobytes()) for n, a in inputs.items()}
        deadline = time.time() + timeout_s
        await self.bus.publish(
            score_requests("toy"),
            ScoreRequest(request_id, self.inbox, tensors, is_typed, version, deadline),
        )
        answer = await self.answer(request_id)
        assert isinstance(answer, Outputs | Failed)
        return answer

    async def answer(self, request_id: str) -> Scores | Failed | Outputs | Description:
        async with asyncio.timeout(20):
            return await self.answers[request_id].get()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_toy(tmp_path / "toy")
    return tmp_path / "toy"


@pytest.fixture
def service(folder: Path, bus: Bus, bus_config: BusConfig) -> RecommenderService:
    (service,) = build(RecommenderConfig(model=folder), bus, bus_config)
    assert isinstance(service, RecommenderService)
    return service


@pytest.fixture
async def client(service: RecommenderService, bus: Bus) -> AsyncIterator[Client]:
    async with running(service):
        client = Client(bus)
        reading = asyncio.create_task(client.read())
        yield client
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


@cache
def loaded(folder: Path) -> Model:
    return load_model(folder, slice_rows=64, num_threads=1)


def best(folder: Path, context: Context, names: list[str], k: int) -> list[tuple[str, float]]:
    """What must come back: the model asked directly, sorted by hand."""
    model = loaded(folder)
    (scores,) = model.rank([model.read(context, names).query])
    pairs = list(zip(names, scores.tolist(), strict=True))
    return sorted(pairs, key=lambda pair: -pair[1])[:k]


async def test_candidates_come_back_best_first(client: Client, folder: Path) -> None:
    context = {"place": ["x.y"], "seen": ["d"]}
    answer = await client.ask(context, ["g", "a", "f", "a.b"], k=4)
    assert isinstance(answer, Scores)
    expected = best(folder, context, ["g", "a", "f", "a.b"], 4)
    assert list(zip(answer.items, answer.scores, strict=True)) == expected
    assert answer.num_unknown == 0


async def test_without_candidates_the_best_of_the_catalogue_come_back(
    client: Client, folder: Path
) -> None:
    context = {"seen": ["a.b", "g", "never.heard"]}
    answer = await client.ask(context, k=3)
    assert isinstance(answer, Scores)
    left = [name for name in ITEMS if name not in ("a.b", "g")]
    assert list(zip(answer.items, answer.scores, strict=True)) == best(folder, context, left, 3)
    assert answer.num_unknown == 1


async def test_k_beyond_the_catalogue_gets_all_of_it(client: Client) -> None:
    answer = await client.ask({}, k=1000)
    assert isinstance(answer, Scores)
    assert sorted(answer.items) == sorted(ITEMS)


@pytest.mark.parametrize(
    ("context", "candidates", "k", "param"),
    [
        ({}, ["a", "nowhere"], 1, "candidates"),
        ({}, [], 1, "candidates"),
        ({"colour": ["red"]}, None, 1, "context.colour"),
        ({"number": ["99"]}, None, 1, "context.number"),
        ({}, None, 0, "k"),
    ],
)
async def test_what_only_the_model_can_judge_fails_with_the_field_at_fault(
    client: Client, context: Context, candidates: list[str] | None, k: int, param: str
) -> None:
    answer = await client.ask(context, candidates, k)
    assert isinstance(answer, Failed)
    assert (answer.code, answer.param) == ("invalid_request", param)
    following = await client.ask({}, k=1)
    assert isinstance(following, Scores)


async def test_an_expired_request_is_not_scored(client: Client) -> None:
    answer = await client.ask({}, timeout_s=-1)
    assert isinstance(answer, Failed)
    assert answer.code == "deadline_exceeded"


TENSORS = {
    "place": np.array([[1, 2]]),
    "seen": np.array([[3, 1, -1]]),
    "last": np.array([[1]]),
    "seen_roots": np.array([[2, 1]]),
    "number": np.array([[4]]),
    "item": np.array([1, 5, 7]),
    "root": np.array([1, 2, 4]),
}


async def test_tensors_are_scored_beside_names(client: Client, folder: Path) -> None:
    model = loaded(folder)
    ((expected,),) = model.score([model.read_tensors(TENSORS, 9)])
    named, *answers = await asyncio.gather(
        client.ask({}), *(client.score(TENSORS, version=v) for v in (None, model.version))
    )
    assert isinstance(named, Scores)
    for answer in answers:
        assert isinstance(answer, Outputs)
        assert answer.version == model.version
        assert answer.outputs == {"score": Tensor("float32", [3, 1], expected.tobytes())}
    assert await client.bus.lag(score_requests("toy")) == 0


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"item": np.array([1.0], np.float32)}, "inputs.item", "needed is int64"),
        ({"item": np.array([9])}, "inputs.item", "rows 0 to 7"),
        ({"item": np.array([1], np.int32)}, "inputs.item", "there are int64, float32"),
        ({"colour": np.array([1])}, "inputs.colour", "no input 'colour'"),
        ({"item": np.array([1, 2])}, "inputs", "item 2, root 3"),
    ],
)
async def test_tensors_that_do_not_fit_fail_with_the_input_at_fault(
    client: Client, change: dict[str, np.ndarray], param: str, words: str
) -> None:
    answer = await client.score({**TENSORS, **change})
    assert isinstance(answer, Failed)
    assert (answer.code, answer.param) == ("invalid_request", param)
    assert words in answer.message


async def test_tensors_that_come_too_late_or_for_another_version_are_not_scored(
    client: Client,
) -> None:
    late = await client.score(TENSORS, timeout_s=-1)
    assert isinstance(late, Failed)
    assert late.code == "deadline_exceeded"
    other = await client.score(TENSORS, version="2")
    assert isinstance(other, Failed)
    assert (other.code, other.param) == ("not_found", "version")


async def test_whoever_asks_is_told_inputs_outputs_and_plan(
    client: Client, service: RecommenderService, folder: Path
) -> None:
    version = loaded(folder).version
    client.answers = {"1": asyncio.Queue(), "2": asyncio.Queue()}
    for request_id, wanted in (("1", "another"), ("2", version)):
        await client.bus.send(
            [service.instance_id], DescribeRequest(request_id, client.inbox, wanted)
        )
    answer = await client.answer("2")
    assert isinstance(answer, Description)
    described = json.loads(answer.json)
    assert (described["model"], described["version"]) == ("toy", version)
    assert [one["name"] for one in described["inputs"]] == list(TENSORS)
    assert described["outputs"] == [{"name": "score", "dtype": "float32", "shape": [-1, 1]}]
    assert len(described["plan"]["stored"]) == len(loaded(folder).layout.stored)
    assert client.answers["1"].empty()


async def test_many_requests_at_once_each_get_their_own_answer(
    client: Client, folder: Path
) -> None:
    rng = np.random.default_rng(0)
    asked = [[ITEMS[i] for i in rng.permutation(len(ITEMS))[:4]] for _ in range(100)]
    contexts: list[Context] = [{"seen": names[:2], "place": ["z"]} for names in asked]
    answers = await asyncio.gather(
        *(client.ask(c, names, 4) for c, names in zip(contexts, asked, strict=True))
    )
    for context, names, answer in zip(contexts, asked, answers, strict=True):
        assert isinstance(answer, Scores)
        got = list(zip(answer.items, answer.scores, strict=True))
        assert got == best(folder, context, names, 4)
    # One answer each, and nothing is left in the topic.
    assert all(queue.empty() for queue in client.answers.values())
    assert await client.bus.lag(TOPIC) == 0


async def test_the_registry_shows_model_version_and_catalogue(
    client: Client, service: RecommenderService, folder: Path
) -> None:
    async with asyncio.timeout(5):
        while not (live := service.registry.live("recommender", "toy")):
            await service.registry.changed()
    (instance,) = live
    answer = await client.ask({})
    assert isinstance(answer, Scores)
    assert instance.attributes == {
        "version": answer.version,
        "versions": f"stable={answer.version}",
        "catalogue_size": str(len(ITEMS)),
        "context": "place,seen,number",
    }
    assert len(load_manifest(folder).context_keys) == 3


async def test_after_a_drain_another_instance_answers_the_rest(
    service: RecommenderService, folder: Path, bus: Bus, bus_config: BusConfig
) -> None:
    client = Client(bus)
    reading = asyncio.create_task(client.read())
    asked = [await client.submit({}, ITEMS, 3) for _ in range(200)]
    work = asyncio.create_task(service.run())
    answers = [asyncio.create_task(client.answers[request_id].get()) for request_id in asked]
    await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED, timeout=10)
    service.drain()
    await asyncio.wait_for(work, 10)
    async with running(*build(RecommenderConfig(model=folder), bus, bus_config)):
        terminals = await asyncio.wait_for(asyncio.gather(*answers), 20)
    assert all(isinstance(terminal, Scores) for terminal in terminals)
    assert all(queue.empty() for queue in client.answers.values())
    assert await bus.lag(TOPIC) == 0
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def test_a_broken_folder_stops_the_start(service: RecommenderService, folder: Path) -> None:
    (folder / "arena.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"arena\.bin is damaged"):
        await service.run()


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="RECOMMENDER_MAX_ITEMS"):
        load_config(RecommenderConfig, {"RECOMMENDER_MAX_ITEMS": "0"})
    with pytest.raises(ConfigError, match="RECOMMENDER_MODLE"):
        load_config(RecommenderConfig, {"RECOMMENDER_MODLE": "x"})
