"""What answers hold beside their text: log probabilities, rounds, calls of tools."""

from __future__ import annotations

import asyncio
import json
from functools import partial

import pytest

from shared.generation import Grammar, Logprobs, RoundTrace, RoundVote, Steering, Times
from shared.messages import Cancelled, Failed, Finished, GenerateRequest, Tokens
from shared.service import Terminal
from tests.gateway.conftest import REPORT, ScriptedVerifier, Stage

COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


async def tell(verifier: ScriptedVerifier, request: GenerateRequest) -> Terminal:
    """Says the words in two rounds of halves, with all that can be told of them."""
    tokens = verifier.text.encode(verifier.words)
    middle = len(tokens) // 2
    for index, (start, end) in enumerate([(0, middle), (middle, len(tokens))]):
        part = tokens[start:end]
        draft = part[:-1] if index == 0 else []
        votes = [RoundVote("small", part, 1.5, 2), RoundVote("wide", [0, *part], 0.5)]
        told = [Logprobs(-0.25 * (start + n), [t, 2], [-0.1, -3.0]) for n, t in enumerate(part)]
        trace = RoundTrace(
            index,
            start,
            len(part),
            4,
            draft,
            len(draft),
            votes if draft else [],
            0.5,
            2,
            Times(0.1),
        )
        await verifier.bus.send(
            [request.reply_to],
            Tokens(request.request_id, verifier.instance_id, start, part, told, [trace]),
        )
    return Finished(request.request_id, len(tokens), "stop", REPORT)


async def test_a_completion_has_four_lists(stage: Stage) -> None:
    stage.verifier.script = tell
    _, answer, _ = await stage.post(COMPLETIONS, {"prompt": "x", "logprobs": 2})
    (choice,) = answer["choices"]
    told = choice["logprobs"]
    assert "".join(told["tokens"]) == choice["text"] == stage.verifier.words
    assert told["token_logprobs"] == [-0.25 * n for n in range(len(told["tokens"]))]
    offsets = [0]
    for token in told["tokens"][:-1]:
        offsets.append(offsets[-1] + len(token))
    assert told["text_offset"] == offsets
    assert all(
        token in top for token, top in zip(told["tokens"], told["top_logprobs"], strict=True)
    )
    (request,) = stage.verifier.requests
    assert request.num_logprobs == 2


async def test_a_chat_has_one_entry_a_token_and_its_bytes(stage: Stage) -> None:
    stage.verifier.script = tell
    stage.verifier.words = "naïve café – ø"
    body = {**HELLO, "logprobs": True, "top_logprobs": 2}
    _, answer, _ = await stage.post(CHATS, body)
    (choice,) = answer["choices"]
    content = choice["logprobs"]["content"]
    said = b"".join(bytes(entry["bytes"]) for entry in content)
    assert said.decode() == choice["message"]["content"] == stage.verifier.words
    assert all(len(entry["top_logprobs"]) == 2 for entry in content)


@pytest.mark.parametrize("path", [COMPLETIONS, CHATS])
async def test_a_stream_tells_the_same_as_the_whole_answer(stage: Stage, path: str) -> None:
    stage.verifier.script = tell
    asked = {"prompt": "x", "logprobs": 1} if path == COMPLETIONS else {**HELLO, "logprobs": True}
    _, whole, _ = await stage.post(path, asked)
    events = await stage.stream(path, asked)
    parts = [e["choices"][0]["logprobs"] for e in events if e["choices"]]
    for name, told in whole["choices"][0]["logprobs"].items():
        if told is not None:
            assert [entry for part in parts for entry in part[name]] == told


async def test_without_being_asked_it_tells_nothing(stage: Stage) -> None:
    _, answer, _ = await stage.post(COMPLETIONS, {"prompt": "x"})
    assert answer["choices"][0]["logprobs"] is None
    assert "trace" not in answer
    (request,) = stage.verifier.requests
    assert request.num_logprobs is None
    assert not request.is_traced


@pytest.mark.parametrize("is_stream", [False, True])
async def test_rounds_tell_where_each_token_came_from(stage: Stage, is_stream: bool) -> None:
    stage.verifier.script = tell
    body = {"prompt": "x", "return_trace": True}
    if is_stream:
        events = await stage.stream(COMPLETIONS, body)
        rounds = [r for e in events for r in e.get("trace", {"rounds": []})["rounds"]]
    else:
        _, answer, _ = await stage.post(COMPLETIONS, body)
        rounds = answer["trace"]["rounds"]
    assert [r["index"] for r in rounds] == [0, 1]
    first, second = rounds
    assert {t["source"] for t in first["tokens"][:-1]} == {"accepted"}
    assert first["tokens"][-1]["source"] == "bonus"
    assert {t["source"] for t in second["tokens"]} == {"plain"}
    assert "".join(t["text"] for r in rounds for t in r["tokens"]) == stage.verifier.words
    assert all(t["drafters"] == ["small"] for t in first["tokens"])
    assert [v["num_agreed"] for v in first["votes"]] == [len(first["tokens"]), 0]
    assert [v["num_ready"] for v in first["votes"]] == [2, 0]
    assert (first["length"], first["num_running"], first["started_s"]) == (4, 2, 0.5)
    assert first["seconds"]["drafting"] == 0.1
    assert [t["token"] for t in first["draft"]] == [t["token"] for t in first["tokens"][:-1]]


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("field", "value", "grammar"),
    [
        ("response_format", {"type": "text"}, None),
        ("response_format", {"type": "json_object"}, ("json", {"type": "object"})),
        (
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
            ("json", SCHEMA),
        ),
        ("structured_outputs", {"json": SCHEMA}, ("json", SCHEMA)),
        ("structured_outputs", {"json": json.dumps(SCHEMA)}, ("json", SCHEMA)),
        ("structured_outputs", {"regex": "a+"}, ("regex", "a+")),
        ("structured_outputs", {"choice": ["a", "b"]}, ("choice", ["a", "b"])),
        ("structured_outputs", {"grammar": "start: /a/"}, ("lark", "start: /a/")),
    ],
)
async def test_what_the_text_must_be_travels(
    stage: Stage, field: str, value: object, grammar: tuple[str, object] | None
) -> None:
    status, answer, _ = await stage.post(CHATS, {**HELLO, field: value})
    assert status == 200, answer
    (request,) = stage.verifier.requests
    if grammar is None:
        assert request.grammar is None
        return
    assert request.grammar is not None
    kind, text = grammar
    assert (request.grammar.kind, request.grammar.source) == (kind, field)
    said = request.grammar.text
    assert (said if isinstance(text, str) else json.loads(said)) == text


async def test_what_a_verifier_refuses_is_the_clients_400(stage: Stage) -> None:
    async def refuse(verifier: ScriptedVerifier, request: GenerateRequest) -> Terminal:
        text = "structured_outputs: invalid regex"
        return Failed(request.request_id, "invalid_request", text, "structured_outputs")

    stage.verifier.script = refuse
    body = {"prompt": "x", "structured_outputs": {"regex": "("}, "stream": True}
    status, answer, _ = await stage.post(COMPLETIONS, body)
    assert (status, answer["error"]["param"]) == (400, "structured_outputs")


@pytest.mark.parametrize(
    ("speculation", "steering"),
    [
        ({"mode": "off"}, Steering(length=0)),
        ({"length": 3}, Steering(length=3)),
        ({"max_length": 2, "vote": "greedy"}, Steering(max_length=2, vote="greedy")),
        (None, Steering()),
    ],
)
async def test_how_it_is_drafted_travels(
    stage: Stage, speculation: object, steering: Steering
) -> None:
    body = {"prompt": "x", "speculation": speculation, "min_tokens": 4}
    status, answer, _ = await stage.post(COMPLETIONS, body)
    assert status == 200, answer
    (request,) = stage.verifier.requests
    assert request.steering == steering
    assert request.min_tokens == 4


async def test_stop_texts_wait_for_the_fewest_tokens(stage: Stage) -> None:
    stage.verifier.words = "fox fox fox fox fox fox"
    body = {"prompt": "x", "stop": "fox", "max_tokens": 60}
    _, answer, _ = await stage.post(COMPLETIONS, body)
    assert answer["choices"][0]["text"] == ""
    _, answer, _ = await stage.post(COMPLETIONS, {**body, "min_tokens": 5})
    text = answer["choices"][0]["text"]
    assert text
    assert "fox fox fox fox fox fox".startswith(text)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] > 5


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'


async def test_a_call_in_the_text_is_told_as_one(stage: Stage) -> None:
    stage.verifier.words = f"Let me see.\n{CALL}"
    body = {**HELLO, "tools": [WEATHER], "max_tokens": 150}
    _, answer, _ = await stage.post(CHATS, body)
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"].strip() == "Let me see."
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["id"].startswith("call_")
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Köln"}
    # The template knows no tools: it is told of them.
    (request,) = stage.verifier.requests
    prompt = stage.text.decode(request.prompt)
    assert '"name": "weather"' in prompt
    assert request.grammar is None


async def test_a_stream_tells_of_calls_as_openai_does(stage: Stage) -> None:
    stage.verifier.words = f"Hm. {CALL}"
    events = await stage.stream(CHATS, {**HELLO, "tools": [WEATHER], "max_tokens": 150})
    deltas = [e["choices"][0]["delta"] for e in events]
    parts = [part for d in deltas for part in d.get("tool_calls", [])]
    assert parts[0]["function"]["name"] == "weather"
    assert parts[0]["id"].startswith("call_")
    assert {part["index"] for part in parts} == {0}
    arguments = "".join(part["function"]["arguments"] for part in parts)
    assert json.loads(arguments) == {"city": "Köln"}
    assert "".join(d.get("content") or "" for d in deltas).strip() == "Hm."
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("per_round", [1, 4, 1000])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_behind_the_only_call_generation_ends(
    stage: Stage, is_stream: bool, per_round: int
) -> None:
    """At the same token, however many came in a round."""
    stage.verifier.words = f"Hm. {CALL}\n{CALL} And so on."
    stage.verifier.script = partial(go_on, per_round=per_round)
    body = {**HELLO, "tools": [WEATHER], "max_tokens": 500, "parallel_tool_calls": False}
    if is_stream:
        asked = {**body, "stream_options": {"include_usage": True}}
        *events, last = await stage.stream(CHATS, asked)
        choices = [event["choices"][0] for event in events]
        calls = [part for c in choices for part in c["delta"].get("tool_calls", [])]
        assert {part["index"] for part in calls} == {0}
        assert "".join(c["delta"].get("content") or "" for c in choices).strip() == "Hm."
        usage, reason = last["usage"], choices[-1]["finish_reason"]
    else:
        _, answer, _ = await stage.post(CHATS, body)
        (choice,) = answer["choices"]
        assert len(choice["message"]["tool_calls"]) == 1
        usage, reason = answer["usage"], choice["finish_reason"]
    assert reason == "tool_calls"
    async with asyncio.timeout(5):
        cancelled = await stage.verifier.cancelled.get()
    assert [request.request_id for request in stage.verifier.requests] == [cancelled]
    until = stage.verifier.words.index("}}") + 2
    tokens = stage.text.encode(stage.verifier.words)
    needed = next(n for n in range(len(tokens)) if len(stage.text.decode(tokens[:n])) >= until)
    assert usage["completion_tokens"] == needed


async def test_a_call_ends_nothing_before_min_tokens_or_where_several_are_wanted(
    stage: Stage,
) -> None:
    stage.verifier.words = f"{CALL}\n{CALL}"
    body = {**HELLO, "tools": [WEATHER], "max_tokens": 500}
    _, answer, _ = await stage.post(CHATS, body)
    assert len(answer["choices"][0]["message"]["tool_calls"]) == 2
    least = len(stage.text.encode(stage.verifier.words)) - 2
    alone = {**body, "parallel_tool_calls": False, "min_tokens": least}
    _, answer, _ = await stage.post(CHATS, alone)
    (choice,) = answer["choices"]
    assert (len(choice["message"]["tool_calls"]), choice["finish_reason"]) == (1, "tool_calls")
    assert answer["usage"]["completion_tokens"] == least


async def go_on(
    verifier: ScriptedVerifier, request: GenerateRequest, *, per_round: int
) -> Terminal:
    """Says the words, so many tokens a round, and then nothing until it is cancelled."""
    tokens = verifier.text.encode(verifier.words)
    for offset in range(0, len(tokens), per_round):
        await verifier.tokens(request, offset, tokens[offset : offset + per_round])
    await verifier.cancel_of(request).wait()
    return Cancelled(request.request_id, REPORT)


async def test_a_named_function_is_forced(stage: Stage) -> None:
    stage.verifier.words = '{"city": "Bonn"}'
    choice = {"type": "function", "function": {"name": "weather"}}
    body = {**HELLO, "tools": [WEATHER], "tool_choice": choice}
    _, answer, _ = await stage.post(CHATS, body)
    message = answer["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"][0]["function"] == {
        "name": "weather",
        "arguments": '{"city": "Bonn"}',
    }
    (request,) = stage.verifier.requests
    expected = {"type": "object", **WEATHER["function"]["parameters"]}
    assert request.grammar == Grammar("json", json.dumps(expected), "tools")


async def test_some_call_is_forced(stage: Stage) -> None:
    stage.verifier.words = '[{"name": "weather", "arguments": {"city": "Bonn"}}]'
    body = {**HELLO, "tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
    _, answer, _ = await stage.post(CHATS, body)
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"city": "Bonn"}
    (request,) = stage.verifier.requests
    assert request.grammar is not None
    assert json.loads(request.grammar.text)["maxItems"] == 1


async def test_calls_and_results_of_earlier_turns_are_rendered(stage: Stage) -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Ulm"}'},
    }
    messages = [
        {"role": "user", "content": "How is it?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    status, answer, _ = await stage.post(CHATS, {"messages": messages, "tools": [WEATHER]})
    assert status == 200, answer
    (request,) = stage.verifier.requests
    prompt = stage.text.decode(request.prompt)
    assert '{"city": "Ulm"}' in prompt
    assert "<tool_response>\nsunny" in prompt
