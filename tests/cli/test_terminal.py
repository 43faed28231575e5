"""`chat` and `top` on a real terminal: colours, keys, Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from tests.cli.conftest import run, succeed
from tests.cli.terminal import terminal
from tests.redis_server import free_port

CTRL_C, CTRL_D = "\x03", "\x04"
GREEN, CYAN, YELLOW = 32, 36, 33


@dataclass
class Talker:
    """A server that says the first words of an answer, and the rest when it is let."""

    url: str
    gate: threading.Event = field(default_factory=threading.Event)
    bodies: list[dict] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            await self._say(response, "one ", "accepted", ["a"])
            await self._say(response, "two ", "accepted", ["b"])
            await asyncio.to_thread(self.gate.wait, 60)
            await self._say(response, "three\x1b[2J", "corrected", [])
            usage = {"prompt_tokens": 1, "completion_tokens": 3}
            detail = {
                "num_target_passes": 2, "num_draft_tokens": 4, "draft_acceptance_rate": 0.5,
            }  # fmt: skip
            last = {"choices": [], "usage": usage, "metrics": {"speculative_decoding": detail}}
            await response.write(f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n".encode())
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise
        return response

    async def models(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"data": [{"id": "m", "drafters": ["a", "b"]}]})

    async def status(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append({})
        if len(self.bodies) > 2 and not self.gate.is_set():
            return web.json_response({"error": {"message": "the bus is away"}}, status=503)
        totals = dict.fromkeys(
            (
                *("requests", "prompt_tokens", "completion_tokens"),
                *("target_passes", "draft_tokens", "accepted_tokens"),
            ),
            len(self.bodies),
        )
        body = {"model": "m\x1b[2J", "time": float(len(self.bodies)), "in_flight": 1}
        rest = {"queues": {}, "instances": [], "drafters": {}, "totals": totals}
        return web.json_response({**body, **rest})

    async def _say(
        self, response: web.StreamResponse, text: str, source: str, drafters: list[str]
    ) -> None:
        token = {"token": 1, "text": text, "source": source, "drafters": drafters}
        chunk = {
            "choices": [{"delta": {"content": text}}],
            "trace": {"rounds": [{"tokens": [token]}]},
        }
        await response.write(f"data: {json.dumps(chunk)}\n\n".encode())


@pytest.fixture
def talker() -> Iterator[Talker]:
    """On a thread of its own, since the terminal is read by this one."""
    port = free_port()
    found = Talker(f"http://127.0.0.1:{port}")
    loop = asyncio.new_event_loop()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", found.chat)
    app.router.add_get("/v1/models", found.models)
    app.router.add_get("/v1/status", found.status)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)

    async def start() -> None:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield found
    found.gate.set()
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_an_answer_streams_in_the_colours_of_its_tokens(talker: Talker) -> None:
    with terminal("chat", "--url", talker.url, "--system", "Be brief.") as screen:
        start = screen.wait_for("Ctrl-C stops an answer", "a b corrected bonus plain", "> ")
        screen.type("Hello\r")
        screen.wait_for("one two ", after=start)
        talker.gate.set()
        end = screen.wait_for("3 tokens, ", "2 rounds, 50% of draft tokens accepted", after=start)
        for colour, text in ((GREEN, "one "), (CYAN, "two "), (YELLOW, "three�")):
            assert re.search(rf"\x1b\[{colour}m{text}", screen.raw), screen.raw
        screen.wait_for("> ", after=end)
        assert screen.exit_code(CTRL_D) == 0
    (body,) = talker.bodies
    assert [m["content"] for m in body["messages"]] == ["Be brief.", "Hello"]
    assert body["return_trace"] is True


def test_ctrl_c_stops_the_answer_and_a_second_one_leaves(talker: Talker) -> None:
    with terminal("chat", "--url", talker.url) as screen:
        start = screen.wait_for("> ")
        screen.type("Hello\r")
        start = screen.wait_for("one two ", after=start)
        screen.type(CTRL_C)
        start = screen.wait_for("stopped", "> ", after=start)
        assert talker.left.wait(30)
        talker.gate.set()
        screen.type("Go on\r")
        start = screen.wait_for("3 tokens", after=start)
        screen.wait_for("> ", after=start)
        assert screen.exit_code(CTRL_C) == 0
    said = [m["content"] for m in talker.bodies[-1]["messages"]]
    assert said == ["Hello", "one two ", "Go on"]


def test_what_was_said_can_be_forgotten(talker: Talker) -> None:
    talker.gate.set()
    with terminal("chat", "--url", talker.url) as screen:
        start = screen.wait_for("> ")
        for question in ("Hello", "/new", "Again"):
            screen.type(question + "\r")
            if question != "/new":
                start = screen.wait_for("3 tokens", after=start)
            start = screen.wait_for("> ", after=start)
        assert screen.exit_code(CTRL_C) == 0
    assert [len(body["messages"]) for body in talker.bodies] == [1, 1]


def test_without_a_terminal_a_stopped_answer_ends_the_command(talker: Talker) -> None:
    """One question on a terminal: its answer in colours, then the end."""
    with terminal("chat", "Hello", "--url", talker.url) as screen:
        start = screen.wait_for("one two ")
        screen.type(CTRL_C)
        screen.wait_for("stopped", after=start)
        assert screen.exit_code() == 130
    assert talker.left.wait(30)


def test_a_real_answer_is_the_same_text_in_colours(url: str) -> None:
    asked = ("chat", "def read_lines(path):", "--url", url, "--max-tokens", 40, "--temperature", 0)
    plain = succeed(*asked)
    with terminal(*asked) as screen:
        end = screen.wait_for(" rounds, ", "of draft tokens accepted")
        assert screen.exit_code() == 0
        shown = screen.text[:end].replace("\r\n", "\n")
    assert shown.startswith(plain.rstrip("\n"))
    # The shipped drafters propose most of the target's greedy tokens.
    assert re.search(r"\x1b\[(32|36|35|34)m", screen.raw), screen.raw


def test_a_refused_question_leaves_the_conversation_open(url: str) -> None:
    with terminal("chat", "--url", url, "--model", "gpt-9") as screen:
        start = screen.wait_for("> ")
        screen.type("Hello\r")
        start = screen.wait_for("'gpt-9' does not exist", "> ", after=start)
        assert screen.exit_code(CTRL_C) == 0


def test_top_shows_the_fleet_and_its_rates_until_ctrl_c(url: str) -> None:
    with terminal("top", "--url", url, "--interval", 0.2) as screen:
        start = screen.wait_for("quorum-6m", "verifier", "import-next", "Ctrl-C leaves")
        assert run("bench", "--url", url, "--requests", 2, "--max-tokens", 8).returncode == 0
        screen.wait_for("quorum-draft-small", "quorum-draft-wide", after=start)
        screen.wait_for_match(r"tokens/s (?!0\.0 )[\d.]+ ")
        assert screen.exit_code(CTRL_C) == 0
    # The page was on a screen of its own, which is given back.
    assert screen.raw.count("\x1b[?1049h") == screen.raw.count("\x1b[?1049l") == 1


def test_top_stays_while_the_gateway_cannot_tell(talker: Talker) -> None:
    with terminal("top", "--url", talker.url, "--interval", 0.1) as screen:
        screen.wait_for("m�[2J", "tokens/s -")
        screen.wait_for("tokens/s 1.0")
        screen.wait_for("the bus is away")
        talker.gate.set()
        screen.wait_for_match(r"requests ([4-9]|\d\d)\b")
        assert screen.exit_code(CTRL_C) == 0


def test_a_bar_shows_the_progress_of_a_load(talker: Talker) -> None:
    with terminal("bench", "chats", "--url", talker.url, "--requests", 3) as screen:
        screen.wait_for("0/3 requests", "1 open, 0 failed")
        talker.gate.set()
        screen.wait_for("3 requests in ", "0 failed", "9 tokens")
        assert screen.exit_code() == 0


def test_ctrl_c_ends_a_load_and_tells_what_was_done(talker: Talker) -> None:
    with terminal("bench", "chats", "--url", talker.url, "--seconds", 60) as screen:
        screen.wait_for("1 open")
        screen.type(CTRL_C)
        screen.wait_for("1 requests in ", "1 failed", "1 x interrupted")
        assert screen.exit_code() == 1
