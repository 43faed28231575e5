"""The verifier on the bus: every way in which a request can end, and that it ends once."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import astuple
from prometheus_client import REGISTRY

from services.verifier.config import VerifierConfig
from services.verifier.service import VerifierService
from shared.bus import Bus
from shared.config import BusConfig
from shared.generation import Sampling
from shared.lm.decoder import load_decoder
from shared.messages import Cancel, Cancelled, Failed, Finished, GenerateRequest, Release
from shared.topics import batch_generate_requests, generate_requests
from shared.wire import replace
from tests.system import Answer, Client, decode_plainly, running
from tests.toy import MAX_CONTEXT, VOCAB_SIZE, write_toy

GREEDY = Sampling(temperature=0.0)
PROMPT = [5, 9, 33, 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy") / "target")


@pytest.fixture
def settings() -> dict[str, object]:
    return {}


@pytest.fixture
async def verifier(
    folder: Path, bus: Bus, bus_config: BusConfig, settings: dict[str, object]
) -> AsyncIterator[VerifierService]:
    config = VerifierConfig(
        model=folder, num_threads=1, **{"max_batch": 4, "self_test": False} | settings
    )
    service = VerifierService(config, bus, bus_config)
    async with running(service):
        yield service


@pytest.fixture
async def client(bus: Bus, verifier: VerifierService) -> AsyncIterator[Client]:
    async with Client(bus, verifier.name).connected() as client:
        yield client


def text_of(folder: Path, prompt: list[int], count: int) -> list[int]:
    decoder = load_decoder(folder, max_slots=1, num_threads=1)
    return decode_plainly(decoder, prompt, count, GREEDY)


async def ending(client: Client, request_id: str) -> Finished | Failed | Cancelled:
    answer = client.answers[request_id]
    await asyncio.wait_for(answer.ended.wait(), 20)
    (terminal,) = answer.terminals
    return terminal


async def send(client: Client, **changes: object) -> str:
    """A request with some fields changed; its id."""
    request_id = uuid.uuid4().hex
    request = GenerateRequest(request_id, client.inbox, PROMPT, 4, GREEDY, [], time.time() + 60)
    client.answers[request_id] = Answer([], [], asyncio.Event())
    await client.bus.publish(generate_requests(client.model), replace(request, **changes))
    return request_id


async def test_what_can_wait_is_served_as_well(client: Client, folder: Path) -> None:
    request_id = uuid.uuid4().hex
    request = GenerateRequest(request_id, client.inbox, PROMPT, 4, GREEDY, [], time.time() + 60)
    answer = client.answers[request_id] = Answer([], [], asyncio.Event())
    await client.bus.publish(batch_generate_requests(client.model), request)
    assert isinstance(await ending(client, request_id), Finished)
    assert answer.tokens == text_of(folder, PROMPT, 4)


async def test_it_stops_at_the_limit_and_says_so(client: Client, folder: Path) -> None:
    tokens, finished = await client.generate(PROMPT, 20, GREEDY)
    assert tokens == text_of(folder, PROMPT, 20)
    assert finished.reason == "length"


async def test_metrics_tell_of_what_is_in_work(client: Client) -> None:
    def value(name: str) -> float | None:
        return REGISTRY.get_sample_value(name, {"model_name": client.model})

    assert value("vllm:num_requests_running") == value("vllm:kv_cache_usage_perc") == 0
    request_id = await send(client, max_tokens=MAX_CONTEXT - len(PROMPT))
    async with asyncio.timeout(20):
        await client.answers[request_id].begun.wait()
    assert value("vllm:num_requests_running") == 1
    assert 0 < value("vllm:kv_cache_usage_perc") <= 1 / 4  # one of the four slots
    await ending(client, request_id)
    assert value("vllm:num_requests_running") == value("vllm:kv_cache_usage_perc") == 0


async def test_it_stops_at_a_stop_token_which_is_the_last_one_sent(
    client: Client, folder: Path
) -> None:
    text = text_of(folder, PROMPT, 20)
    tokens, finished = await client.generate(PROMPT, 20, GREEDY, stop_tokens=[text[7]])
    assert tokens == text[: text.index(text[7]) + 1]
    assert finished.reason == "stop"


async def test_a_context_filled_to_the_brim_is_served(client: Client, folder: Path) -> None:
    prompt = [1 + n % (VOCAB_SIZE - 1) for n in range(MAX_CONTEXT - 3)]
    tokens, _ = await client.generate(prompt, 3, GREEDY)
    assert tokens == text_of(folder, prompt, 3)


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"prompt": []}, "prompt", "at least one token"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_tokens": MAX_CONTEXT}, "max_tokens", f"context of {MAX_CONTEXT}"),
        ({"prompt": [VOCAB_SIZE]}, "prompt", f"0 and {VOCAB_SIZE - 1}"),
        ({"prompt": [-1]}, "prompt", f"0 and {VOCAB_SIZE - 1}"),
        ({"sampling": Sampling(logit_bias={10**6: 1.0})}, "prompt", "token ids"),
    ],
)
async def test_what_cannot_be_served_fails_with_the_field_at_fault(
    client: Client, changes: dict[str, object], param: str, words: str
) -> None:
    terminal = await ending(client, await send(client, **changes))
    assert isinstance(terminal, Failed)
    assert (terminal.code, terminal.param) == ("invalid_request", param)
    assert words in terminal.message


async def test_a_request_past_its_deadline_is_not_begun(client: Client) -> None:
    terminal = await ending(client, await send(client, deadline=time.time() - 1))
    assert isinstance(terminal, Failed)
    assert terminal.code == "deadline_exceeded"


@pytest.mark.alone
async def test_a_cancelled_request_ends_within_a_second(
    client: Client, verifier: VerifierService
) -> None:
    request_id, answer = await client.submit(PROMPT, MAX_CONTEXT - 10, GREEDY)
    await asyncio.wait_for(answer.begun.wait(), 20)
    cancelled = time.monotonic()
    await client.bus.send([verifier.instance_id], Cancel(request_id))
    assert isinstance(await ending(client, request_id), Cancelled)
    assert time.monotonic() - cancelled < 1.0
    # Its slot is free again.
    await client.generate(PROMPT, 3, GREEDY)


async def test_a_request_cancelled_while_it_waits_in_the_topic_is_not_begun(
    client: Client, verifier: VerifierService
) -> None:
    first = [await client.submit(PROMPT, MAX_CONTEXT - 10, GREEDY) for _ in range(4)]
    waiting, _ = await client.submit(PROMPT, MAX_CONTEXT - 10, GREEDY)
    await client.bus.send([verifier.instance_id], Cancel(waiting))
    for request_id, _ in first:
        await client.bus.send([verifier.instance_id], Cancel(request_id))
    for request_id in (*(request_id for request_id, _ in first), waiting):
        assert isinstance(await ending(client, request_id), Cancelled)
    assert client.answers[waiting].tokens == []


@pytest.mark.parametrize("settings", [{"prefill_tokens": 2}])
async def test_a_cancel_is_heard_between_the_chunks_of_a_prefill(
    client: Client, verifier: VerifierService
) -> None:
    request_id, answer = await client.submit([7] * (MAX_CONTEXT - 2), 2, GREEDY)
    await client.bus.send([verifier.instance_id], Cancel(request_id))
    assert isinstance(await ending(client, request_id), Cancelled)
    assert answer.tokens == []


@pytest.mark.parametrize("settings", [{"orphan_s": 0.2}])
async def test_requests_of_a_gateway_that_is_gone_end(verifier: VerifierService, bus: Bus) -> None:
    """Nobody renews this client's place in the registry."""
    client = Client(bus, verifier.name)
    async with bus.receive(client.inbox) as messages:
        await client.submit(PROMPT, MAX_CONTEXT - 10, GREEDY)
        request_id, _ = await client.submit([3] * 200, MAX_CONTEXT - 210, GREEDY)
        async with asyncio.timeout(30):
            async for message in messages:
                if isinstance(message, Cancelled | Finished) and message.request_id == request_id:
                    break
    assert await bus.lag(generate_requests(verifier.name)) == 0


async def test_a_drain_finishes_what_was_begun_and_leaves_the_rest(
    folder: Path, bus: Bus, bus_config: BusConfig
) -> None:
    config = VerifierConfig(model=folder, num_threads=1, max_batch=2, self_test=False)
    service = VerifierService(config, bus, bus_config)
    async with Client(bus, service.name).connected() as client:
        asked = [await client.submit(PROMPT, 100, GREEDY) for _ in range(12)]
        work = asyncio.create_task(service.run())
        await client.endings.get()
        service.drain()
        await asyncio.wait_for(work, 20)
        successor = VerifierService(config, bus, bus_config)
        async with running(successor):
            for request_id, answer in asked:
                assert isinstance(await ending(client, request_id), Finished)
                assert answer.tokens == text_of(folder, PROMPT, 100)


async def test_a_garbled_inbox_changes_nothing(client: Client, verifier: VerifierService) -> None:
    await client.bus.send([verifier.instance_id], Release("x", 0, [], None))
    tokens, _ = await client.generate(PROMPT, 3, GREEDY)
    assert len(tokens) == 3


async def test_the_report_says_where_the_time_went(client: Client) -> None:
    started = time.perf_counter()
    _, finished = await client.generate([5, 6, 7], 20, Sampling(temperature=0.8, seed=1))
    took_s = time.perf_counter() - started
    times = finished.report.times
    assert min(times.forward_s, times.sampling_s, times.rest_s) > 0
    assert times.total_s == pytest.approx(sum(astuple(times)))
    assert times.forward_s < times.total_s < took_s
