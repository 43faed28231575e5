"""What answers tell of their prompts: OpenAI's lists with an echo, and vLLM's `prompt_logprobs`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.gateway.replies import Arrival, Replies, Waiter
from shared.bus.memory import MemoryBus
from shared.config import BusConfig
from shared.generation import Logprobs, Sampling, Times
from shared.messages import (
    Cancel,
    Finished,
    GenerateRequest,
    GenerationReport,
    PromptLogprobs,
    Tokens,
)
from shared.service import Terminal
from shared.topics import generate_requests
from tests.gateway.conftest import END, REPORT, ScriptedVerifier, Stage

COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
ECHO = {"prompt": "The lazy dog ", "echo": True, "logprobs": 1, "max_tokens": 50}


async def tell(verifier: ScriptedVerifier, request: GenerateRequest) -> Terminal:
    """Says the words and the end's marker, with what is told of them."""
    tokens = [*verifier.text.encode(verifier.words), 1][: request.max_tokens]
    told = [Logprobs(-0.5 * n, [t], [-0.1], 1) for n, t in enumerate(tokens)]
    message = Tokens(request.request_id, verifier.instance_id, 0, tokens, told)
    await verifier.bus.send([request.reply_to], message)
    return Finished(request.request_id, len(tokens), "stop" if tokens else "length", REPORT)


@pytest.fixture(autouse=True)
def telling(stage: Stage) -> None:
    stage.verifier.script = tell


def texts_at(choice: dict) -> list[str]:
    """What the choice's text has where each of its tokens begins."""
    told = choice["logprobs"]
    ends = [*told["text_offset"][1:], len(choice["text"])]
    return [choice["text"][s:e] for s, e in zip(told["text_offset"], ends, strict=True)]


async def test_an_echo_has_one_list_over_prompt_and_answer(stage: Stage) -> None:
    _, answer, _ = await stage.post(COMPLETIONS, ECHO)
    (choice,) = answer["choices"]
    told, text = choice["logprobs"], stage.text
    prompt, said = text.encode(ECHO["prompt"]), text.encode(stage.verifier.words)
    assert choice["text"] == ECHO["prompt"] + stage.verifier.words
    assert told["tokens"] == [text.token_text(t) for t in [*prompt, *said]] + [END]
    assert told["token_logprobs"] == [
        None,
        *(-0.01 * token for token in prompt[1:]),
        *(-0.5 * n for n in range(len(said) + 1)),
    ]
    assert told["top_logprobs"][0] is None
    second = {text.token_text(2): -0.002, told["tokens"][1]: -0.01 * prompt[1]}
    assert told["top_logprobs"][1] == second
    assert texts_at(choice) == [*told["tokens"][:-1], ""]
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(prompt), len(said) + 1)
    (request,) = stage.verifier.requests
    assert (request.num_prompt_logprobs, request.num_logprobs) == (1, 1)


@pytest.mark.parametrize("changes", [{}, {"max_tokens": 0}, {"prompt": [7]}, {"logprobs": 3}])
async def test_streams_tell_the_same_for_all_prompts_and_choices(
    stage: Stage, changes: dict[str, object]
) -> None:
    """A choice's chunks add up; its first one has the whole prompt."""
    body = {**ECHO, "prompt": ["quick ", "The lazy dog ", "ï"], "n": 2, **changes}
    _, whole, _ = await stage.post(COMPLETIONS, body)
    events = await stage.stream(COMPLETIONS, {**body, "stream_options": {"include_usage": True}})
    for choice in whole["choices"]:
        parts = [e["choices"][0] for e in events if e["choices"]]
        parts = [part for part in parts if part["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert parts[0]["text"].startswith(choice["text"][:1])
        for name in LISTS:
            told = [entry for part in parts for entry in part["logprobs"][name]]
            assert told == choice["logprobs"][name]
        assert choice["logprobs"]["token_logprobs"][0] is None
        assert parts[-1]["finish_reason"] == choice["finish_reason"]
    assert events[-1]["usage"] == whole["usage"]


@pytest.mark.parametrize("number", [None, 0, 2])
async def test_nothing_may_be_generated(stage: Stage, number: int | None) -> None:
    body = {"prompt": "The lazy dog", "echo": True, "max_tokens": 0, "logprobs": number}
    _, answer, _ = await stage.post(COMPLETIONS, body)
    (choice,) = answer["choices"]
    prompt = stage.text.encode("The lazy dog")
    assert (choice["text"], choice["finish_reason"]) == ("The lazy dog", "length")
    assert answer["usage"]["completion_tokens"] == 0
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] == len(prompt)
    (request,) = stage.verifier.requests
    assert (request.max_tokens, request.num_prompt_logprobs) == (0, number or 0)
    if number is None:
        assert choice["logprobs"] is None
    else:
        assert {len(choice["logprobs"][name]) for name in LISTS} == {len(prompt)}


@pytest.mark.parametrize("is_text", [True, False])
async def test_markers_and_split_characters_of_a_prompt_are_where_they_are(
    stage: Stage, is_text: bool
) -> None:
    typed = f"<|im_start|>naïve – {END}☃!"
    prompt = typed if is_text else stage.text.encode(typed)
    stage.verifier.words = "é☃ x"
    _, answer, _ = await stage.post(COMPLETIONS, {**ECHO, "prompt": prompt})
    (choice,) = answer["choices"]
    assert choice["text"] == typed + stage.verifier.words
    told = choice["logprobs"]
    assert told["tokens"].count(END) == 2  # the second one ends the answer
    found = dict(zip(told["text_offset"], told["tokens"], strict=True))
    for place, token in found.items():
        if "�" not in token and place < len(choice["text"]):
            assert choice["text"].startswith(token, place), (place, token)
    assert found[typed.index(END)] == END
    assert found[typed.index("!")] == "!"
    assert found[len(typed + "é☃")].startswith(" ")


@pytest.mark.parametrize("path", [COMPLETIONS, CHATS])
async def test_prompt_logprobs_are_vllms(stage: Stage, path: str) -> None:
    asked = {"prompt": ["The", "quick brown"]} if path == COMPLETIONS else HELLO
    _, answer, _ = await stage.post(path, {**asked, "max_tokens": 5, "prompt_logprobs": 3})
    if path == CHATS:
        told = [answer["prompt_logprobs"]]
        assert "prompt_logprobs" not in answer["choices"][0]
    else:
        told = [choice["prompt_logprobs"] for choice in answer["choices"]]
        assert answer["choices"][0]["logprobs"] is None
    for request, places in zip(stage.verifier.requests, told, strict=True):
        assert places[0] is None
        assert len(places) == len(request.prompt)
        for token, place in zip(request.prompt[1:], places[1:], strict=True):
            own = {"logprob": -0.01 * token, "rank": token}
            expected = {token: own} | {
                other: {"logprob": -0.001 * other, "rank": other - 1} for other in (2, 3, 4)
            }
            assert place == {
                str(t): {**entry, "decoded_token": stage.text.token_text(t)}
                for t, entry in expected.items()
            }


async def test_each_way_gets_as_many_as_it_asks_for(stage: Stage) -> None:
    asked = {**ECHO, "prompt": [9, 9, 9], "prompt_logprobs": 3}
    _, answer, _ = await stage.post(COMPLETIONS, asked)
    (choice,) = answer["choices"]
    assert [len(place) for place in choice["prompt_logprobs"][1:]] == [4, 4]
    assert [len(place) for place in choice["logprobs"]["top_logprobs"][1:3]] == [2, 2]
    _, answer, _ = await stage.post(COMPLETIONS, {**ECHO, "logprobs": 3, "prompt_logprobs": 0})
    (choice,) = answer["choices"]
    assert {len(place) for place in choice["prompt_logprobs"][1:]} == {1}
    assert {len(place) for place in choice["logprobs"]["top_logprobs"][1:3]} == {4}


async def test_without_being_asked_nothing_is_told_of_a_prompt(stage: Stage) -> None:
    for path, body in ((COMPLETIONS, {"prompt": "x", "logprobs": 1}), (CHATS, HELLO)):
        _, answer, _ = await stage.post(path, body)
        assert "prompt_logprobs" not in answer
        assert "prompt_logprobs" not in answer["choices"][0]
    assert {request.num_prompt_logprobs for request in stage.verifier.requests} == {None}


@pytest.mark.parametrize("gateway_settings", [{"max_choices": 128}])
async def test_an_answer_has_a_largest_size(stage: Stage) -> None:
    many = {**ECHO, "prompt": [[5] * 1000], "n": 48, "max_tokens": 0, "logprobs": 20}
    status, answer, _ = await stage.post(COMPLETIONS, many)
    assert (status, answer["error"]["param"]) == (400, "logprobs")
    assert "1008000 log probabilities" in answer["error"]["message"]
    assert "at most 1000000" in answer["error"]["message"]
    asked = {**many, "logprobs": None, "prompt_logprobs": 20}
    status, answer, _ = await stage.post(COMPLETIONS, asked)
    assert (status, answer["error"]["param"]) == (400, "prompt_logprobs")
    assert not stage.verifier.requests


ASKED = GenerateRequest(
    "r", "gateway", [5, 6, 7, 8], 2, Sampling(temperature=0.0), [], 0.0, num_prompt_logprobs=0
)
SAID = [Logprobs(-float(n), [], [], n) for n in (1, 2, 3)]
DONE = Finished("r", 2, "length", GenerationReport(0, [], 0, Times(), []))
TOPIC = generate_requests("m")


def part(offset: int, sender: str = "v") -> PromptLogprobs:
    return PromptLogprobs("r", sender, offset, SAID[offset - 1 : offset + 1])


@pytest.fixture
async def replies() -> AsyncIterator[Replies]:
    bus = MemoryBus(BusConfig())
    yield Replies(bus, silence_s=60)
    await bus.close()


async def heard(replies: Replies, waiter: Waiter, *messages: object) -> list[object]:
    for message in messages:
        await replies.receive(message)
    return [event async for event in replies.events(waiter, 10)]


async def test_a_prompt_is_handed_on_whole_whoever_tells_of_it(replies: Replies) -> None:
    """Another verifier has taken over in its midst, and a third one behind it."""
    with replies.waiting(ASKED, TOPIC) as waiter:
        tokens = [Tokens("r", "w", 0, []), Tokens("r", "w", 0, [1]), Tokens("r", "u", 0, [1, 2])]
        repeated = [part(1, "w"), tokens[0], part(3, "w"), part(1, "u"), part(3, "u")]
        found = await heard(replies, waiter, part(1), *repeated, *tokens[1:], DONE)
    assert found == [Arrival(0, [], prompt=SAID), Arrival(0, [1]), Arrival(1, [2]), DONE]


@pytest.mark.parametrize(
    "messages",
    [
        [part(3)],
        [part(1), Tokens("r", "v", 0, [1])],
        [part(1), Finished("r", 0, "length", DONE.report)],
    ],
    ids=["the beginning", "before tokens", "before the end"],
)
async def test_what_is_lost_of_a_prompt_has_the_request_published_again(
    replies: Replies, messages: list[object]
) -> None:
    with replies.waiting(ASKED, TOPIC) as waiter:
        async with replies._bus.subscribe(TOPIC) as subscription, asyncio.timeout(10):
            events = asyncio.ensure_future(heard(replies, waiter, *messages))
            assert (await subscription.next()).message == ASKED
            again = [part(1), part(3), Tokens("r", "v", 0, [1, 2]), DONE]
            for message in again:
                await replies.receive(message)
            assert await events == [Arrival(0, [], prompt=SAID), Arrival(0, [1, 2]), DONE]


async def test_who_tells_of_a_prompt_for_nobody_is_told_to_stop(replies: Replies) -> None:
    async with replies._bus.receive("v") as messages, asyncio.timeout(5):
        await replies.receive(part(1))
        assert await anext(messages) == Cancel("r")
