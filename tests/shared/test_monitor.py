"""The monitor answers what it is asked, and refuses the rest in one sentence."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from email import message_from_bytes

import pytest
import pytest_asyncio

from services.voter.config import VoterConfig
from services.voter.service import VoterService
from shared import monitor
from shared.bus.memory import MemoryBus
from shared.config import BusConfig, ProcessConfig
from shared.monitor import MAX_REQUEST, Monitor
from tests.redis_server import free_port

PATIENCE_S = 10.0


async def ask(port: int, *pieces: bytes) -> tuple[int, str, str]:
    """Status, content type and body of what is answered until the connection closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    data = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    head, _, body = data.partition(b"\r\n\r\n")
    status_line, _, headers = head.partition(b"\r\n")
    kind = message_from_bytes(headers)["Content-Type"]
    return int(status_line.split()[1]), kind, body.decode()


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


@pytest.fixture
def voter() -> VoterService:
    bus = MemoryBus(BusConfig())
    return VoterService(VoterConfig(), bus, bus.config)


@pytest_asyncio.fixture
async def port(voter: VoterService) -> AsyncIterator[int]:
    port = free_port()
    async with Monitor(ProcessConfig(monitor_port=port), [voter]):
        yield port


async def test_health_and_metrics(port: int, voter: VoterService) -> None:
    assert await ask(port, get("/health/live")) == (200, "application/json", '{"live": true}')
    status, _, body = await ask(port, get("/health/ready?verbose"))
    assert (status, json.loads(body)) == (
        503,
        {"ready": False, "services": {voter.instance_id: "starting"}},
    )
    voter.ready.set()
    assert (await ask(port, get("/health/ready")))[0] == 200
    status, kind, page = await ask(port, get("/metrics"))
    assert (status, kind.split(";")[0]) == (200, "text/plain")
    assert 'service_ready{name="voter",role="voter"} 1.0' in page
    voter.drain()
    status, _, body = await ask(port, get("/health/ready"))
    assert (status, json.loads(body)["services"]) == (503, {voter.instance_id: "draining"})


async def test_a_request_may_come_in_pieces(port: int) -> None:
    request = get("/health/live")
    assert (await ask(port, request[:7], request[7:30], request[30:]))[0] == 200


@pytest.mark.parametrize(
    ("request_head", "status", "named"),
    [
        (get("/other"), 404, "/health/ready"),
        (b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 405, "GET"),
        (b"nonsense\r\n\r\n", 400, "request line"),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400, "Host"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2 * MAX_REQUEST + b"\r\n\r\n", 431, "buffer"),
    ],
)
async def test_what_cannot_be_answered_is_refused(
    port: int, request_head: bytes, status: int, named: str
) -> None:
    found, kind, body = await ask(port, request_head)
    assert (found, kind) == (status, "text/plain")
    assert named in body
    assert (await ask(port, get("/health/live")))[0] == 200


async def test_a_silent_connection_is_closed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "PATIENCE_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
    writer.close()


async def test_whoever_leaves_disturbs_nobody(port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /met")
    writer.close()
    await writer.wait_closed()
    assert (await ask(port, get("/health/live")))[0] == 200
