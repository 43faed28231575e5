"""The client against real servers: events however they are cut, and every failure as one kind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from services.cli import client as client_module
from services.cli.client import Client, EventBuffer, RequestError
from services.cli.conversation import Conversation
from tests.redis_server import free_port

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[Client]:
    """A client before a server that answers everything by the handler."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with Client(f"http://127.0.0.1:{runner.addresses[0][1]}/") as client:
            yield client
    finally:
        await runner.cleanup()


def events(*bodies: object, end: str = "data: [DONE]\n\n") -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        lines = [f"data: {json.dumps(body)}\n\n" for body in bodies]
        return web.Response(text=": ping\n\n" + "".join(lines) + end)

    return answer


def refusing(status: int, body: object) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status)

    return answer


async def failure(operation: Awaitable[object]) -> RequestError:
    with pytest.raises(RequestError) as raised:
        await operation
    return raised.value


async def all_of(client: Client) -> list[object]:
    async with aclosing(client.stream("/x", {})) as stream:
        return [event async for event in stream]


@given(st.lists(st.integers(0, 200), max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_events_are_the_same_however_they_are_cut(cuts: list[int], line: str) -> None:
    text = ': ping\n\ndata: {"a": "é"}\n\nevent: x\ndata:{"b": 2}\n\n: ping\n\ndata: [DONE]\n\n'
    data = text.replace("\n", line).encode()
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    buffer = EventBuffer()
    found = [e for a, b in pairwise(places) for e in buffer.push(data[a:b])]
    assert found == ['{"a": "é"}', '{"b": 2}', "[DONE]"]


def test_an_event_without_an_end_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_EVENT_BYTES", 100)
    buffer = EventBuffer()
    assert buffer.push(b"data: " + b"x" * 90) == []
    with pytest.raises(RequestError, match="an event without an end"):
        buffer.push(b"x" * 10)


async def test_a_stream_is_its_events() -> None:
    async with server(events({"a": 1}, {"b": 2})) as client:
        assert await all_of(client) == [{"a": 1}, {"b": 2}]


async def test_the_key_goes_with_each_request() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"authorization": request.headers.get("Authorization")})

    async with server(answer) as client:
        assert await client.get("/x") == {"authorization": None}
        async with Client(client.url, "qk-secret") as other:
            assert await other.post("/x", {}) == {"authorization": "Bearer qk-secret"}


@pytest.mark.parametrize(
    ("handler", "kind", "words"),
    [
        (events({"a": 1}, end=""), "cut off", "cut off before its end"),
        (events({"error": {"message": "no more", "code": "full"}}), "full", "no more"),
        (events(["no object"]), "answer", "no JSON object"),
        (events(end="data: {\n\n"), "answer", "is not JSON"),
        (refusing(429, {"error": {"message": "wait", "param": None}}), "HTTP 429", "wait"),
        (
            refusing(401, {"error": {"message": "a key"}}),
            "HTTP 401",
            "a key (--key, or QUORUM_KEY)",
        ),
        (refusing(404, {"detail": "not here"}), "HTTP 404", "not here"),
        (refusing(500, "text"), "HTTP 500", "text"),
        (refusing(502, None), "HTTP 502", "no reason is given"),
    ],
)
async def test_every_failure_has_its_kind(handler: Handler, kind: str, words: str) -> None:
    async with server(handler) as client:
        error = await failure(all_of(client))
    assert error.kind == kind
    assert words in str(error)


async def test_nobody_there_is_said_with_what_to_do() -> None:
    async with Client(f"http://127.0.0.1:{free_port()}") as client:
        error = await failure(client.get("/v1/models"))
    assert error.kind == "connection"
    assert "cannot be reached" in str(error)
    assert "make serve" in str(error)


async def test_a_server_that_leaves_and_one_that_is_silent() -> None:
    async def leave(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async def wait(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    async with server(leave) as client:
        assert (await failure(client.post("/x", {}))).kind == "broken"
    async with server(wait) as client:
        assert (await failure(client.post("/x", {}, timeout_s=0.1))).kind == "timeout"


async def test_who_stops_listening_closes_the_stream() -> None:
    left = asyncio.Event()

    async def talk(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            await response.write(b'data: {"a": 1}\n\n')
            await asyncio.Event().wait()
        finally:
            left.set()
        return response

    async with server(talk) as client, asyncio.timeout(10):
        async with aclosing(client.stream("/x", {})) as stream:
            assert await anext(stream) == {"a": 1}
        await left.wait()


class Picky:
    """A server that refuses all fields but some, by name, and repeats the last question."""

    def __init__(self, *known: str) -> None:
        self.known = {"messages", "stream", *known}
        self.bodies: list[dict] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        if unknown := sorted(body.keys() - self.known):
            told = {"message": f"unknown field {unknown[0]!r}", "param": unknown[0]}
            return web.json_response({"error": told}, status=400)
        text = body["messages"][-1]["content"]
        chunks = [{"choices": [{"delta": {"content": letter}}]} for letter in text]
        return await events(*chunks)(request)


async def said(conversation: Conversation, prompt: str) -> str:
    async with aclosing(conversation.ask(prompt)) as parts:
        return "".join([part.text async for part in parts])


async def test_what_a_server_refuses_is_not_asked_of_it_again() -> None:
    picky = Picky("stream_options")
    async with server(picky.answer) as client:
        conversation = Conversation(client, None, {})
        assert await said(conversation, "Hello") == "Hello"
        assert len(picky.bodies) == 3
        assert await said(conversation, "again") == "again"
    assert len(picky.bodies) == 4
    assert "stream_options" in picky.bodies[-1]
    assert [m["content"] for m in picky.bodies[-1]["messages"]] == ["Hello", "Hello", "again"]


async def test_a_setting_that_is_refused_is_an_error_and_the_question_is_forgotten() -> None:
    picky = Picky("stream_options", "return_speculation", "return_trace", "temperature")
    async with server(picky.answer) as client:
        conversation = Conversation(client, "Be brief.", {"temperature": 0, "wrong": 1})
        error = await failure(said(conversation, "Hello"))
        assert (error.kind, error.param) == ("HTTP 400", "wrong")
        picky.known.add("wrong")
        assert await said(conversation, "again") == "again"
    assert [m["role"] for m in picky.bodies[-1]["messages"]] == ["system", "user"]
    async with server(picky.answer) as client:
        conversation = Conversation(client, None, {})
        await said(conversation, "one")
        conversation.forget()
        await said(conversation, "two")
    assert [m["content"] for m in picky.bodies[-1]["messages"]] == ["two"]


async def test_of_an_answer_that_was_stopped_what_was_said_is_remembered() -> None:
    picky = Picky("stream_options", "return_speculation", "return_trace")
    async with server(picky.answer) as client:
        conversation = Conversation(client, None, {})
        async with aclosing(conversation.ask("Hello")) as parts:
            assert (await anext(parts)).text == "H"
        await said(conversation, "on")
    assert [m["content"] for m in picky.bodies[-1]["messages"]] == ["Hello", "H", "on"]
