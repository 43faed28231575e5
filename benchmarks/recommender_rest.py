"""Quorum's recommender through the REST door, embedded: KServe's protocol with binary tensors.

A request is one user, each of its fields sent once, and many candidates. The client is as light
as can be: it shares the machine's cores with what it measures.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
import numpy.typing as npt

from benchmarks.generation import free_port, process

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

HEADER = "Inference-Header-Content-Length"
START_TIMEOUT_S = 120.0
OPEN_CONNECTIONS = 64
"""Of the open loop: as many requests as may wait for an answer at a time."""


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request as it goes over the wire, and the ids that it asks for."""

    wire: bytes
    ids: IntArray


@contextmanager
def serving(folder: Path, threads: int) -> Iterator[int]:
    """The gateway and the recommender in one process; its port."""
    port = free_port()
    environment = {
        "GATEWAY_PORT": str(port),
        "GATEWAY_RECOMMENDER": folder.name,
        "RECOMMENDER_MODEL": str(folder),
        "RECOMMENDER_NUM_THREADS": str(threads),
        "RECOMMENDER_MEMORY": "copied",
        "QUORUM_LOG_LEVEL": "warning",
    }
    with process([sys.executable, "-m", "services", "gateway", "recommender"], environment):
        asyncio.run(_until_ready(port, folder.name))
        yield port


async def _until_ready(port: int, model: str) -> None:
    give_up = time.monotonic() + START_TIMEOUT_S
    url = f"http://127.0.0.1:{port}/v2/models/{model}/ready"
    async with aiohttp.ClientSession() as http:
        while time.monotonic() < give_up:
            try:
                async with http.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.2)  # a process that starts sends no word
    raise RuntimeError("the gateway did not get ready")


def request(model: str, names: Sequence[str], ids: IntArray) -> Request:
    """For candidates [items, fields]: the last field is theirs, the first item's others are the
    user's."""
    tensors = [ids[:1, field] for field in range(len(names) - 1)]
    tensors.append(np.ascontiguousarray(ids[:, -1]))
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": name,
                    "shape": [len(tensor)],
                    "datatype": "INT64",
                    "parameters": {"binary_data_size": tensor.nbytes},
                }
                for name, tensor in zip(names, tensors, strict=True)
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    body = head + b"".join(tensor.tobytes() for tensor in tensors)
    lines = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/octet-stream\r\n{HEADER}: {len(head)}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    asked = np.array(ids)
    asked[:, :-1] = ids[0, :-1]
    return Request(lines.encode() + body, asked)


class Connection:
    """One that is kept alive, with a request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, wire: bytes) -> bytes:
        """The body of the answer, its JSON included. Raises RuntimeError for any but a 200."""
        self._writer.write(wire)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(_header(head, b"content-length"))
        body = await self._reader.readexactly(length)
        if not head.startswith(b"http/1.1 200"):
            raise RuntimeError(f"the gateway answered {head[:40]!r} {body[:200]!r}")
        return body[int(_header(head, HEADER.lower().encode())) :]

    def close(self) -> None:
        self._writer.close()


def _header(head: bytes, name: bytes) -> bytes:
    start = head.index(b"\r\n" + name + b": ") + len(name) + 4
    return head[start : head.index(b"\r\n", start)]


def scores_of(body: bytes) -> FloatArray:
    """Of the one output."""
    return np.frombuffer(body, "<f4")


async def closed_loop(
    port: int, requests: Sequence[Request], connections: int, seconds: float
) -> float:
    """Requests a second, each connection sending its next one when the last is answered."""
    done = 0
    stop = time.perf_counter() + seconds

    async def work(number: int) -> None:
        nonlocal done
        connection = await Connection.open(port)
        place = number * len(requests) // connections
        while time.perf_counter() < stop:
            await connection.ask(requests[place % len(requests)].wire)
            place += 1
            done += 1
        connection.close()

    started = time.perf_counter()
    await asyncio.gather(*(work(number) for number in range(connections)))
    return done / (time.perf_counter() - started)


async def open_loop(
    port: int, requests: Sequence[Request], per_second: float, seconds: float, seed: int
) -> list[float]:
    """Milliseconds from when each request was due to its answer; they are due at random moments
    (Poisson), whether others are answered or not."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / per_second, max(1, round(per_second * seconds)))
    due = np.cumsum(gaps)
    idle: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(OPEN_CONNECTIONS):
        idle.put_nowait(await Connection.open(port))
    latencies: list[float] = []
    started = time.perf_counter()

    async def one(number: int, at: float) -> None:
        connection = await idle.get()
        await connection.ask(requests[number % len(requests)].wire)
        latencies.append(1e3 * (time.perf_counter() - started - at))
        idle.put_nowait(connection)

    async with asyncio.TaskGroup() as group:
        for number, at in enumerate(due.tolist()):
            if (wait := started + at - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            group.create_task(one(number, at))
    while not idle.empty():
        idle.get_nowait().close()
    return latencies
