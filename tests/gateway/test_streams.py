"""Many streams at a time, and readers who do not read: no token lost, nobody else held up."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import REGISTRY

from services.gateway import events, routes
from services.gateway.text import TextModel
from shared.lm.manifest import load_manifest
from shared.messages import Cancelled, Finished, GenerateRequest
from shared.service import Terminal
from tests.gateway.conftest import REPORT, ScriptedVerifier, Stage

pytestmark = pytest.mark.alone

PATH = "/v1/completions"
NUM_STREAMS, NUM_TOKENS = 1000, 40
ENDLESS = 100_000


def cancellations(reason: str) -> float:
    return REGISTRY.get_sample_value("requests_cancelled_total", {"reason": reason}) or 0.0


def text_of(raw: bytes) -> str:
    """The text of a stream that must be whole, and of one request."""
    *lines, done = raw.decode().strip().split("\n\n")
    assert done == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line[0] != ":"]
    assert len({chunk["id"] for chunk in chunks}) == 1
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [c["finish_reason"] for c in choices if c["finish_reason"]] == ["length"]
    return "".join(choice["text"] for choice in choices)


def tokens_of(seed: int, count: int) -> list[int]:
    """Another text for each seed, a printable character a token."""
    return [40 + (7 * seed + place * (1 + seed % 13)) % 50 for place in range(count)]


class TestMany:
    @pytest.fixture
    def num_places(self) -> int:
        return NUM_STREAMS

    @pytest.fixture
    def gateway_settings(self) -> dict[str, object]:
        # Streams are silent until the last one is there, however long this machine takes for that.
        return {"max_in_flight": NUM_STREAMS, "silence_s": 100.0}

    @pytest.mark.timeout(120)
    async def test_a_thousand_streams_at_a_time_get_their_own_tokens_in_order(
        self, stage: Stage
    ) -> None:
        all_are_there = asyncio.Event()

        async def talk(verifier: ScriptedVerifier, request: GenerateRequest) -> Terminal:
            tokens = tokens_of(request.sampling.seed, NUM_TOKENS)
            await verifier.tokens(request, 0, tokens[:1])
            if len(verifier.requests) == NUM_STREAMS:
                all_are_there.set()
            await all_are_there.wait()
            for place in range(1, NUM_TOKENS):
                await verifier.tokens(request, place, tokens[place : place + 1])
                await asyncio.sleep(0)
            return Finished(request.request_id, NUM_TOKENS, "length", REPORT)

        async def read(number: int) -> str:
            body = {"prompt": "x", "stream": True, "seed": number, "max_tokens": NUM_TOKENS}
            async with http.post(stage.url + PATH, json=body) as response:
                assert response.status == 200, await response.text()
                return text_of(await response.read())

        stage.verifier.script = talk
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=110)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            texts = await asyncio.gather(*(read(number) for number in range(NUM_STREAMS)))
        for number, text in enumerate(texts):
            assert text == stage.text.decode(tokens_of(number, NUM_TOKENS)), number
        assert len(stage.verifier.requests) == NUM_STREAMS, "nothing had to be published again"


class TestSlow:
    """A client that asks for a stream and never reads."""

    @pytest.fixture
    def model_folder(self, model_folder: Path, tmp_path: Path) -> Path:
        """With room for more text than sockets hold."""
        folder = tmp_path / model_folder.name
        shutil.copytree(model_folder, folder)
        replace(load_manifest(folder, ()), max_context=2 * ENDLESS).save(folder)
        return folder

    @pytest.fixture
    def text_model(self, model_folder: Path) -> TextModel:
        return TextModel(model_folder)

    @pytest.mark.timeout(120)
    async def test_it_is_cut_off_and_holds_nobody_up(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(events, "STALL_S", 1.0)
        lagged, stalled = cancellations("lag"), cancellations("stall")
        num_said = 0
        cut_off = asyncio.Event()

        async def talk(verifier: ScriptedVerifier, request: GenerateRequest) -> Terminal:
            nonlocal num_said
            tokens = tokens_of(request.sampling.seed, request.max_tokens)
            for place, token in enumerate(tokens):
                if verifier.cancel_of(request).is_set():
                    num_said = place
                    cut_off.set()
                    return Cancelled(request.request_id, REPORT)
                await verifier.tokens(request, place, [token])
                await asyncio.sleep(0)
            return Finished(request.request_id, len(tokens), "length", REPORT)

        stage.verifier.script = talk
        mute = socket.socket()
        mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with mute:
            await asyncio.to_thread(mute.connect, ("127.0.0.1", stage.gateway.port))
            body = json.dumps({"prompt": "x", "stream": True, "max_tokens": ENDLESS, "seed": 1})
            head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            mute.sendall((head + body).encode())
            num_read = 0
            while not cut_off.is_set():
                asked = {"prompt": "x", "stream": True, "seed": num_read, "max_tokens": 20}
                async with stage.http.post(stage.url + PATH, json=asked) as response:
                    text = text_of(await response.read())
                assert text == stage.text.decode(tokens_of(num_read, 20))
                num_read += 1
            assert num_read > 1
            assert routes.MAX_LAG < num_said < ENDLESS
            assert cancellations("lag") == lagged + 1
            # What was let in for it is free again once its connection is cut.
            async with asyncio.timeout(10):
                while await in_flight(stage):
                    await asyncio.to_thread(mute.getpeername)
            assert cancellations("stall") == stalled + 1


async def in_flight(stage: Stage) -> int:
    async with stage.http.get(stage.url + "/v1/status") as response:
        told: int = (await response.json())["in_flight"]
        return told
