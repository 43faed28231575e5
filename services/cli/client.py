"""A gateway as the command line sees it: JSON and server-sent events over HTTP, and every way in
which that goes wrong as one kind of error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

import aiohttp

from shared.errors import QuorumError

Json = dict[str, Any]
CONNECT_S = 5.0
LOOK_S = 10.0
"""For what the gateway answers by itself."""
MAX_EVENT_BYTES = 8 << 20
DONE = "[DONE]"


class RequestError(QuorumError):
    """A request without its answer. `kind` is short, for counts; `status` and `param` are those of
    a refusal."""

    code = "request_failed"

    def __init__(
        self, message: str, kind: str, status: int | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
        self.param = param


class EventBuffer:
    """Bytes of a stream to the data of its events; comments are dropped."""

    def __init__(self) -> None:
        self._rest = b""

    def push(self, data: bytes) -> list[str]:
        """The events that are complete now. Raises RequestError for one without an end."""
        *blocks, self._rest = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise RequestError("the stream has an event without an end", "answer")
        lines = [line for block in blocks for line in block.split(b"\n")]
        return [line[5:].strip().decode(errors="replace") for line in lines if line[:5] == b"data:"]


class Client:
    """One session with the gateway at `url`."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            connector=aiohttp.TCPConnector(limit=0),  # how many are open is the caller's to bound
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def get(self, path: str) -> Json:
        """Raises RequestError."""
        async with self._answer("GET", path, None, LOOK_S) as response:
            return _object(await response.read(), path)

    async def post(self, path: str, body: Json, timeout_s: float | None = None) -> Json:
        """Raises RequestError."""
        async with self._answer("POST", path, body, timeout_s) as response:
            return _object(await response.read(), path)

    async def stream(
        self, path: str, body: Json, timeout_s: float | None = None
    ) -> AsyncGenerator[Json, None]:
        """The events up to [DONE]. Raises RequestError; whoever stops early closes the stream,
        which ends the request."""
        async with self._answer("POST", path, {**body, "stream": True}, timeout_s) as response:
            buffer = EventBuffer()
            async for data in response.content.iter_any():
                for event in buffer.push(data):
                    if event == DONE:
                        return
                    answer = _object(event.encode(), path)
                    if "error" in answer:
                        raise _refusal(answer, None)
                    yield answer
        raise RequestError("the stream was cut off before its end", "cut off")

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, body: Json | None, timeout_s: float | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(method, self.url + path, json=body) as response,
            ):
                try:
                    if response.status >= 400:
                        raise _refusal_of(await response.read(), response.status)
                    yield response
                finally:
                    response.close()
        except aiohttp.ClientConnectorError as error:
            raise RequestError(
                f"{self.url} cannot be reached: {error.strerror or error}. Is Quorum running there "
                "(make serve)? --url names another place",
                "connection",
            ) from error
        except aiohttp.ClientError as error:
            reason = str(error) or type(error).__name__
            raise RequestError(f"the connection to {self.url} broke: {reason}", "broken") from error
        except TimeoutError as error:
            raise RequestError(f"{self.url} did not answer in time", "timeout") from error


def _object(data: bytes, path: str) -> Json:
    try:
        answer = json.loads(data)
    except ValueError as error:
        raise RequestError(f"what answers to {path} is not JSON", "answer") from error
    if not isinstance(answer, dict):
        raise RequestError(f"what answers to {path} is no JSON object", "answer")
    return answer


def _refusal_of(data: bytes, status: int) -> RequestError:
    try:
        answer = json.loads(data)
    except ValueError:
        answer = data[:200].decode(errors="replace").strip()
    return _refusal(answer, status)


def _refusal(answer: object, status: int | None) -> RequestError:
    """Of OpenAI's shape, or of another server's."""
    told = answer.get("error", answer) if isinstance(answer, dict) else answer
    fields = told if isinstance(told, dict) else {}
    message = str(fields.get("message") or told or "no reason is given")
    param = fields.get("param")
    kind = f"HTTP {status}" if status is not None else str(fields.get("code") or "error")
    if status in (401, 403):
        message += " (--key, or QUORUM_KEY)"
    return RequestError(message, kind, status, param if isinstance(param, str) else None)
