"""What the REST surface refuses, over real HTTP: each mistake is named, once, at the edge."""

from __future__ import annotations

import io

import pytest

from tests.gateway.conftest import Stage

COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello"}]}

WEATHER = {"type": "function", "function": {"name": "weather"}}
BAD: list[tuple[str, object, int, str | None, str]] = [
    (COMPLETIONS, {}, 400, "prompt", "required"),
    (COMPLETIONS, {"prompt": ""}, 400, "prompt", ""),
    (COMPLETIONS, {"prompt": []}, 400, "prompt", ""),
    (COMPLETIONS, {"prompt": 5}, 400, "prompt", ""),
    (COMPLETIONS, {"prompt": [1, "a"]}, 400, "prompt", ""),
    (COMPLETIONS, {"prompt": [-1]}, 400, "prompt", ""),
    (COMPLETIONS, {"prompt": [100_000]}, 400, "prompt", "below"),
    (COMPLETIONS, {"prompt": "x", "max_tokens": 0}, 400, "max_tokens", "greater"),
    (COMPLETIONS, {"prompt": "x", "max_tokens": "9"}, 400, "max_tokens", "integer"),
    (COMPLETIONS, {"prompt": "x", "max_tokens": 1100}, 400, "prompt", "context is 1024"),
    (COMPLETIONS, {"prompt": "x", "temperature": -1}, 400, "temperature", "greater"),
    (COMPLETIONS, {"prompt": "x", "temperature": True}, 400, "temperature", "number"),
    (COMPLETIONS, {"prompt": "x", "top_p": 0}, 400, "top_p", "greater"),
    (COMPLETIONS, {"prompt": "x", "seed": 1 << 70}, 400, "seed", ""),
    (COMPLETIONS, {"prompt": "x", "n": 17}, 400, "n", "at most 16"),
    (COMPLETIONS, {"prompt": "x", "stop": ["a"] * 5}, 400, "stop", ""),
    (COMPLETIONS, {"prompt": "x", "stop": ""}, 400, "stop", ""),
    (COMPLETIONS, {"prompt": "x", "logit_bias": {"x": 1}}, 400, "logit_bias", "token id"),
    (COMPLETIONS, {"prompt": "x", "logit_bias": {"9999": 1}}, 400, "logit_bias", "token id"),
    (COMPLETIONS, {"prompt": "x", "logit_bias": {"5": 101}}, 400, "logit_bias", "less"),
    (CHATS, {**HELLO, "echo": True}, 400, "echo", "not supported"),
    (COMPLETIONS, {"prompt": [1 << 70], "echo": True}, 400, "prompt", "must be below"),
    (COMPLETIONS, {"prompt": "x", "best_of": 2}, 400, "best_of", "not supported"),
    (COMPLETIONS, {"prompt": "x", "logprobs": 21}, 400, "logprobs", "less"),
    (COMPLETIONS, {"prompt": "x", "logprobs": True}, 400, "logprobs", "integer"),
    (COMPLETIONS, {"prompt": "x", "max_tokens": 0, "logprobs": 1}, 400, "max_tokens", "echoed"),
    (COMPLETIONS, {"prompt": "x", "max_tokens": -1, "echo": True}, 400, "max_tokens", "greater"),
    (
        COMPLETIONS,
        {"prompt": "x", "max_tokens": 0, "prompt_logprobs": 1},
        400,
        "max_tokens",
        "echo",
    ),
    (CHATS, {**HELLO, "max_tokens": 0}, 400, "max_tokens", "greater"),
    (COMPLETIONS, {"prompt": "x", "prompt_logprobs": -1}, 400, "prompt_logprobs", "greater"),
    (COMPLETIONS, {"prompt": "x", "prompt_logprobs": 21}, 400, "prompt_logprobs", "less"),
    (CHATS, {**HELLO, "prompt_logprobs": 1, "stream": True}, 400, "prompt_logprobs", "stream"),
    (COMPLETIONS, {"prompt": "x", "top_logprobs": 2}, 400, "top_logprobs", "not supported"),
    (COMPLETIONS, {"prompt": "x", "min_tokens": 17}, 400, "min_tokens", "more than the 16"),
    (COMPLETIONS, {"prompt": "x", "stop_token_ids": [9999]}, 400, "stop_token_ids", "below"),
    (COMPLETIONS, {"prompt": "x", "n": 2, "return_trace": True}, 400, "return_trace", "one"),
    (COMPLETIONS, {"prompt": "x", "structured_outputs": {}}, 400, "structured_outputs", "one of"),
    (
        COMPLETIONS,
        {"prompt": "x", "structured_outputs": {"regex": "a", "choice": ["a"]}},
        400,
        "structured_outputs",
        "one of",
    ),
    (
        COMPLETIONS,
        {"prompt": "x", "structured_outputs": {"choice": []}},
        400,
        "structured_outputs",
        "",
    ),
    (
        COMPLETIONS,
        {"prompt": "x", "speculation": {"mode": "off", "length": 3}},
        400,
        "speculation",
        "nothing else",
    ),
    (
        COMPLETIONS,
        {"prompt": "x", "speculation": {"length": 3, "max_length": 3}},
        400,
        "speculation",
        "no meaning",
    ),
    (COMPLETIONS, {"prompt": "x", "speculation": {"length": 65}}, 400, "speculation", ""),
    (
        COMPLETIONS,
        {"prompt": "x", "speculation": {"drafters": ["nobody"]}},
        400,
        "speculation",
        "no drafter 'nobody'",
    ),
    (COMPLETIONS, {"prompt": "x", "tools": [WEATHER]}, 400, "tools", "not supported"),
    (COMPLETIONS, {"prompt": "x", "frobnicate": 1}, 400, "frobnicate", "unknown field"),
    (COMPLETIONS, {"prompt": "x", "model": "gpt-9"}, 404, None, "does not exist"),
    (COMPLETIONS, [1], 400, None, "JSON object"),
    (CHATS, {"messages": []}, 400, "messages", ""),
    (CHATS, {"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages", ""),
    (CHATS, {"messages": [{"role": "user"}]}, 400, "messages", "content is missing"),
    (CHATS, {"messages": [{"role": "user", "content": 1}]}, 400, "messages", ""),
    (CHATS, {**HELLO, "tools": [{}]}, 400, "tools", "required"),
    (CHATS, {**HELLO, "tools": [WEATHER, WEATHER]}, 400, "tools", "already"),
    (CHATS, {**HELLO, "tool_choice": "required"}, 400, "tool_choice", "no tools"),
    (
        CHATS,
        {
            **HELLO,
            "tools": [WEATHER],
            "tool_choice": {"type": "function", "function": {"name": "x"}},
        },
        400,
        "tool_choice",
        "none of the tools",
    ),
    (
        CHATS,
        {
            **HELLO,
            "tools": [WEATHER],
            "tool_choice": "required",
            "response_format": {"type": "json_object"},
        },
        400,
        "tool_choice",
        "response_format",
    ),
    (
        CHATS,
        {"messages": [{"role": "tool", "content": "x", "tool_call_id": "a"}]},
        400,
        "messages",
        "no call",
    ),
    (CHATS, {"messages": [{"role": "tool", "content": "x"}]}, 400, "messages", "tool_call_id"),
    (CHATS, {**HELLO, "response_format": {"type": "json_schema"}}, 400, "response_format", ""),
    (CHATS, {**HELLO, "response_format": {"type": "xml"}}, 400, "response_format", ""),
    (
        CHATS,
        {**HELLO, "response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
        400,
        "structured_outputs",
        "already",
    ),
    (CHATS, {**HELLO, "top_logprobs": 2}, 400, "top_logprobs", "logprobs: true"),
    ("/v1/recommendations", {"context": {"a": "b"}}, 400, "context", ""),
    ("/v1/recommendations", {"k": 0}, 400, "k", ""),
    ("/v1/recommendations", {}, 503, None, "no recommender"),
    ("/v1/nothing", {}, 404, None, "there is no POST /v1/nothing"),
    ("/v1/models", {}, 405, None, "does not take POST"),
]


@pytest.mark.parametrize(("path", "body", "status", "param", "words"), BAD)
async def test_bad_requests_get_an_error_that_names_the_problem(
    stage: Stage, path: str, body: object, status: int, param: str | None, words: str
) -> None:
    got, answer, _ = await stage.post(path, body)
    assert got == status
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["param"] == param
    assert words in answer["error"]["message"]
    assert not stage.verifier.requests


async def test_a_lone_surrogate_anywhere_is_a_400(stage: Stage) -> None:
    url = stage.url + "/v1/recommendations"
    async with stage.http.post(url, data=b'{"context": {"p": ["\\ud800"]}}') as response:
        assert response.status == 400
        assert "surrogates" in (await response.json())["error"]["message"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"prompt": "x", "temperature": NaN}',
        b'{"prompt": "x", "temperature": Infinity}',
        b'{"prompt": "x", "temperature": 1e999}',
        b"[" * 100_000,
        b'{"prompt": "\\ud800"}',
        b"null",
        b'"text"',
    ],
)
async def test_broken_bodies_are_400s(stage: Stage, raw: bytes) -> None:
    async with stage.http.post(stage.url + COMPLETIONS, data=raw) as response:
        assert response.status == 400, await response.text()
        assert (await response.json())["error"]["message"]


async def test_a_huge_body_is_a_413(stage: Stage) -> None:
    data = io.BytesIO(b'{"prompt": "' + b"x" * 2_000_000 + b'"}')
    async with stage.http.post(stage.url + COMPLETIONS, data=data) as response:
        assert response.status == 413
        assert "too large" in (await response.json())["error"]["message"]


@pytest.mark.parametrize(
    "neutral",
    [{"best_of": 1}, {"echo": False}, {"logprobs": None}, {"suffix": None}, {"top_k": -1},
     {"tools": None}, {"temperature": None}, {"stop": None}],
)  # fmt: skip
async def test_fields_that_ask_for_nothing_are_taken(
    stage: Stage, neutral: dict[str, object]
) -> None:
    status, _, _ = await stage.post(COMPLETIONS, {"prompt": "x", **neutral})
    assert status == 200
