"""What can wait waits: by every name of it, in the queue and at the door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from prometheus_client import REGISTRY

from shared.messages import GenerateRequest
from shared.service import Terminal
from shared.topics import batch_generate_requests, generate_requests
from tests.gateway.conftest import MODEL, ScriptedVerifier, Stage, say, wait_for_cancel

COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
URGENT: list[dict[str, object]] = [
    {},
    {"priority": None},
    {"priority": "interactive"},
    {"priority": 0},
    {"priority": -3},
    {"service_tier": "auto"},
    {"service_tier": "default"},
]
LATER: list[dict[str, object]] = [
    {"priority": "batch"},
    {"priority": 1},
    {"priority": 1 << 70},
    {"service_tier": "flex"},
    {"service_tier": "flex", "priority": 0},
]


def rejections(reason: str) -> float:
    return REGISTRY.get_sample_value("admission_rejections_total", {"reason": reason}) or 0.0


def test_the_usual_class_keeps_the_name_that_older_verifiers_know() -> None:
    assert generate_requests("m").name == "generate.requests.m"
    assert batch_generate_requests("m").group == generate_requests("m").group


@pytest.mark.parametrize("path", [COMPLETIONS, CHATS])
@pytest.mark.parametrize(
    ("said", "is_later"), [(s, False) for s in URGENT] + [(s, True) for s in LATER]
)
async def test_each_name_of_a_class_leads_to_its_topic(
    stage: Stage, path: str, said: dict[str, object], is_later: bool
) -> None:
    begun: asyncio.Queue[str] = asyncio.Queue()

    async def look(verifier: ScriptedVerifier, request: GenerateRequest) -> Terminal:
        logs = {t.name: verifier.bus.log(t.name) for t in TOPICS}  # type: ignore[attr-defined]
        begun.put_nowait(next(name for name, log in logs.items() if log.pending))
        return await say(verifier, request)

    stage.verifier.script = look
    body = {"prompt": "x"} if path == COMPLETIONS else {"messages": [HELLO]}
    status, answer, _ = await stage.post(path, {**body, **said})
    assert status == 200, answer
    assert await begun.get() == TOPICS[is_later].name


@pytest.mark.parametrize("path", [COMPLETIONS, CHATS])
@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({}, None),
        ({"service_tier": None}, None),
        ({"priority": "batch"}, None),
        ({"service_tier": "auto"}, "default"),
        ({"service_tier": "default"}, "default"),
        ({"service_tier": "flex"}, "flex"),
        ({"service_tier": "auto", "priority": 1}, "flex"),
    ],
)
async def test_an_answer_says_in_which_tier_it_was_served(
    stage: Stage, path: str, said: dict[str, object], told: str | None
) -> None:
    body = {**({"prompt": "x"} if path == COMPLETIONS else {"messages": [HELLO]}), **said}
    _, answer, _ = await stage.post(path, body)
    asked = {**body, "stream_options": {"include_usage": True}}
    events = await stage.stream(path, asked)
    assert {each.get("service_tier") for each in (answer, *events)} == {told}
    assert ("service_tier" in answer) == (told is not None)


TOPICS = (generate_requests(MODEL), batch_generate_requests(MODEL))
HELLO = {"role": "user", "content": "Hello"}


@pytest.mark.parametrize(
    "said",
    [
        {"priority": "urgent"},
        {"priority": True},
        {"priority": 0.5},
        {"priority": []},
        {"service_tier": "priority"},
        {"service_tier": "scale"},
        {"service_tier": 1},
    ],
)
async def test_what_is_no_class_is_refused(stage: Stage, said: dict[str, object]) -> None:
    status, body, _ = await stage.post(COMPLETIONS, {"prompt": "x", **said})
    assert status == 400
    assert body["error"]["param"] in said


@asynccontextmanager
async def busy(stage: Stage, count: int, **said: object) -> AsyncIterator[None]:
    """As many generations as that, under way until the body ends."""
    stage.verifier.script = wait_for_cancel
    body = {"prompt": "x", "stream": True, **said}
    async with AsyncExitStack() as stack:
        for _ in range(count):
            opened = stage.http.post(stage.url + COMPLETIONS, json=body)
            response = await stack.enter_async_context(opened)
            assert response.status == 200, await response.text()
            await response.content.readline()
        yield


async def test_in_the_queue_what_can_wait_comes_after_the_other(stage: Stage) -> None:
    released = asyncio.Event()
    order: list[str] = []
    sixty_four = asyncio.Event()

    async def hold(verifier: ScriptedVerifier, request: GenerateRequest) -> Terminal:
        order.append(verifier.text.decode(request.prompt))
        if len(order) == 64:
            sixty_four.set()
        await released.wait()
        return await say(verifier, request)

    stage.verifier.script = hold
    asked = [
        asyncio.create_task(stage.post(COMPLETIONS, {"prompt": "busy", "n": 16})) for _ in range(4)
    ]
    await asyncio.wait_for(sixty_four.wait(), 10)
    for prompt, said in (("later", {"priority": "batch"}), ("now", {})):
        body = {"prompt": prompt, **said}
        asked += [asyncio.create_task(stage.post(COMPLETIONS, body)) for _ in range(3)]
        while await stage.verifier.bus.lag(TOPICS[prompt == "later"]) < 3:
            await asyncio.wait(asked, timeout=0.01)
    released.set()
    answers = await asyncio.wait_for(asyncio.gather(*asked), 20)
    assert {status for status, _, _ in answers} == {200}
    # After 64 of the other it is the turn of one that can wait.
    assert order[64:] == ["later", "now", "now", "now", "later", "later"]


class TestDoor:
    @pytest.fixture
    def gateway_settings(self) -> dict[str, object]:
        return {"max_in_flight": 8}

    async def test_half_of_what_is_let_in_is_kept_for_who_waits(self, stage: Stage) -> None:
        refused, full = rejections("batch"), rejections("full")
        async with busy(stage, 4, priority="batch"):
            status, body, headers = await stage.post(
                COMPLETIONS, {"prompt": "x", "priority": "batch"}
            )
            assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
            assert body["error"]["message"] == (
                "4 requests are in flight, the most that are let in is 4 for batch work"
            )
            assert int(headers["Retry-After"]) >= 1
            assert (rejections("batch"), rejections("full")) == (refused + 1, full)
            async with busy(stage, 4):
                status, body, _ = await stage.post(COMPLETIONS, {"prompt": "x"})
                assert status == 429
                assert "is 8" in body["error"]["message"]
                assert (rejections("batch"), rejections("full")) == (refused + 1, full + 1)
