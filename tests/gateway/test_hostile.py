"""A few thousand hostile requests against a real gateway, the same ones in each run: each gets a
4xx that says what is wrong, soon, and none leaves a trace."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.gateway.config import GatewayConfig
from services.gateway.service import GatewayService
from services.gateway.text import TextModel
from services.recommender.config import RecommenderConfig
from services.recommender.service import RecommenderService
from shared.bus import connect
from shared.config import BusConfig
from tests.gateway import attacks
from tests.gateway.attacks import CHATS, COMPLETIONS, GOOD, JSON, ROWS, SCORES, Attack, packed
from tests.gateway.conftest import ScriptedVerifier
from tests.gateway.house import MSGPACK, model_folders
from tests.system import running

__all__ = ["model_folders"]
pytestmark = pytest.mark.alone

BODY_TIMEOUT_S = 0.3
MAX_S = 1.0
MAX_GROWTH_MB = 64
PAGE_KB = 4


@dataclass
class Fortress:
    """What is attacked."""

    gateway: GatewayService
    verifier: ScriptedVerifier
    text: TextModel

    async def send(self, data: bytes, patience_s: float = 20.0) -> tuple[int, str]:
        """Status and body of the answer to bytes, read until the gateway closes; 0 for none."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        answer = b""
        try:
            writer.write(data)
            async with asyncio.timeout(patience_s):
                answer = await reader.read()
        except (ConnectionError, TimeoutError):
            pass
        finally:
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]) if head else 0, body.decode()

    async def survive(self, sent: Iterator[Attack], least: int) -> None:
        """Sends them, and holds each answer to what is promised."""
        count, size_mb = 0, resident_mb()
        for attack in sent:
            count += 1
            began = time.monotonic()
            status, body = await self.send(attack.raw())
            took_s = time.monotonic() - began
            shown = f"{attack.raw()[:600]!r} -> {status} {body[:600]}"
            assert status < 500, shown
            assert took_s < MAX_S, f"{took_s:.2f} s: {shown}"
            if not (attack.is_legal and status in (200, 202)):
                assert status >= 400, shown
                told = message_of(body)
                assert 0 < len(told) < 2000, shown
                assert attack.field is None or attack.field in body, shown
            assert resident_mb() - size_mb < MAX_GROWTH_MB, shown
        assert count >= least


def resident_mb() -> float:
    """Of this process, in which the gateway is."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_KB / 1024


def message_of(body: str) -> str:
    """Of OpenAI's shape, KServe's, or what the HTTP parser itself says."""
    try:
        error = json.loads(body)["error"]
    except ValueError:
        return body.strip()
    return error if isinstance(error, str) else error["message"]


@pytest.fixture
async def fortress(
    model_folder: Path,
    text_model: TextModel,
    model_folders: dict[str, Path],
) -> AsyncIterator[Fortress]:
    async with standing(model_folder, text_model, model_folders["shop"]) as fortress:
        yield fortress


@asynccontextmanager
async def standing(folder: Path, text: TextModel, shop: Path) -> AsyncIterator[Fortress]:
    bus_config = BusConfig()
    bus = connect(bus_config)
    config = GatewayConfig(port=0, model=folder, recommender="shop", body_timeout_s=BODY_TIMEOUT_S)
    gateway = GatewayService(config, bus, bus_config)
    verifier = ScriptedVerifier(bus, bus_config, text)
    recommender = RecommenderService(RecommenderConfig(model=shop), bus, bus_config)
    async with running(recommender, verifier, gateway):
        yield Fortress(gateway, verifier, text)


async def test_the_bodies_that_are_spoilt_here_are_good_ones(fortress: Fortress) -> None:
    for path, (_, body) in GOOD.items():
        status, answer = await fortress.send(Attack(path, packed(body)).raw())
        assert status in (200, 202), (path, answer)


@pytest.mark.timeout(180)
async def test_bodies_that_are_no_json(fortress: Fortress) -> None:
    rng = random.Random(1)
    bodies = ((path, data) for path in GOOD for data in attacks.broken(rng, packed(GOOD[path][1])))
    await fortress.survive((Attack(path, data) for path, data in bodies), 1000)


@pytest.mark.timeout(180)
async def test_fields_of_the_wrong_type(fortress: Fortress) -> None:
    await fortress.survive(attacks.wrong_types(), 2000)


@pytest.mark.timeout(180)
async def test_parts_of_fields_of_the_wrong_type(fortress: Fortress) -> None:
    await fortress.survive(attacks.inner_fields(), 1000)


async def test_paths_and_methods(fortress: Fortress) -> None:
    await fortress.survive(attacks.paths(), 200)


async def test_headers(fortress: Fortress) -> None:
    await fortress.survive(attacks.headers(), 90)


async def test_what_is_hardly_http(fortress: Fortress) -> None:
    """Where it might still become a request, the gateway waits: for a body until the timeout, for
    headers as long as for another request."""
    size_mb = resident_mb()

    async def send(data: bytes) -> int:
        status, body = await fortress.send(data, MAX_S)
        shown = f"{data[:200]!r} -> {status} {body[:300]}"
        assert status == 0 or 400 <= status < 500, shown
        assert status == 0 or message_of(body), shown
        return status

    statuses = await asyncio.gather(*map(send, attacks.framings()))
    assert statuses.count(0) <= 5, list(zip(statuses, attacks.framings(), strict=True))
    assert resident_mb() - size_mb < MAX_GROWTH_MB


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, str]:
    """Status and body, as long as its headers say."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    (length,) = re.findall(r"(?i)^content-length: (\d+)\r", head, re.M)
    return int(head.split()[1]), (await reader.readexactly(int(length))).decode()


async def test_slow_bodies_end_at_the_timeout(fortress: Fortress) -> None:
    """Some bytes now and then, for as long as they are taken; others go on being served."""
    started = asyncio.Event()

    async def drip(path: str, kind: str) -> tuple[int, str, float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", fortress.gateway.port)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
        writer.write(head.encode() + b"Content-Length: 1000\r\n\r\n")
        began = time.monotonic()
        # No further than the answer: a byte that came too late for it resets the connection.
        answer = asyncio.ensure_future(answer_of(reader))
        started.set()
        while not (await asyncio.wait([answer], timeout=BODY_TIMEOUT_S / 10))[0]:
            writer.write(b"{")
        writer.close()
        status, body = await answer
        return status, body, time.monotonic() - began

    kinds = [(path, JSON) for path in GOOD] + [(SCORES, MSGPACK), (ROWS, MSGPACK)]
    dripping = [asyncio.create_task(drip(*kind)) for kind in kinds * 10]
    await started.wait()
    status, _ = await fortress.send(Attack(COMPLETIONS, packed(GOOD[COMPLETIONS][1])).raw())
    assert status == 200
    assert not all(task.done() for task in dripping)
    for status, body, took_s in await asyncio.gather(*dripping):
        assert status == 408
        assert f"not there within {BODY_TIMEOUT_S} s" in message_of(body)
        assert BODY_TIMEOUT_S * 0.9 < took_s < BODY_TIMEOUT_S + MAX_S


async def test_a_body_that_takes_its_time_within_the_limit_is_taken(fortress: Fortress) -> None:
    data = Attack(COMPLETIONS, packed(GOOD[COMPLETIONS][1])).raw()
    reader, writer = await asyncio.open_connection("127.0.0.1", fortress.gateway.port)
    writer.write(data[:-5])
    answer = asyncio.ensure_future(reader.read())
    assert not (await asyncio.wait([answer], timeout=BODY_TIMEOUT_S / 4))[0]
    writer.write(data[-5:])
    assert (await answer).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_msgpack_and_tensors_as_bytes(fortress: Fortress) -> None:
    await fortress.survive(attacks.binaries(), 300)


@pytest.mark.parametrize(
    "text",
    ["{{ 7 * 7 }}", "{% for x in range(9**9) %}x{% endfor %}", "{{ ''.__class__.__mro__ }}",
     "{{ cycler.__init__.__globals__.os.popen('id').read() }}", "{# gone #}", "${7*7}", "#{7*7}",
     "{{ raise_exception('x') }}", "%(x)s %s {0} {}", "<|im_end|>{{ 7*7 }}", "{{", "%}"],
)  # fmt: skip
async def test_templates_in_messages_stay_text(fortress: Fortress, text: str) -> None:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 4}
    status, answer = await fortress.send(Attack(CHATS, packed(body)).raw())
    assert status == 200, answer
    (request,) = fortress.verifier.requests
    rendered = fortress.text.decode(request.prompt, with_markers=True)
    assert rendered == f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


async def test_after_all_of_it_the_gateway_serves_as_before(fortress: Fortress) -> None:
    rng = random.Random(4)
    for _ in range(50):
        path = rng.choice(list(GOOD))
        await fortress.send(Attack(path, bytes(rng.randrange(256) for _ in range(200))).raw())
    for path, (_, body) in GOOD.items():
        status, _ = await fortress.send(Attack(path, packed(body)).raw())
        assert status in (200, 202)
    status, body_text = await fortress.send(Attack("/v1/status", method="GET").raw())
    assert (status, json.loads(body_text)["in_flight"]) == (200, 0)
