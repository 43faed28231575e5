"""Server-sent events: JSON objects one by one, comment lines while there is nothing to say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from services.gateway import metrics
from services.gateway.errors import REQUEST_ID
from services.gateway.responses import Json

STALL_S = 30.0
"""A reader that takes nothing for so long is disconnected; what is generated for it ends."""


class EventStream:
    """One streamed response. The headers go out with the first event or comment, so that an error
    before it can still be an ordinary response."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._spoken = asyncio.get_running_loop().time()
        self._lock = asyncio.Lock()
        self._response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-cache",
                "x-request-id": request[REQUEST_ID],
            }
        )

    @property
    def is_begun(self) -> bool:
        return self._response.prepared

    async def send(self, body: Json) -> None:
        await self._write(b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n")

    async def end(self) -> web.StreamResponse:
        """OpenAI's last event."""
        await self._write(b"data: [DONE]\n\n", is_last=True)
        return self._response

    @asynccontextmanager
    async def pinged(self, ping_s: float) -> AsyncIterator[None]:
        """Says a comment for every `ping_s` of silence in the body: it keeps proxies awake, and
        means nothing to clients."""
        pinging = asyncio.create_task(self._ping(ping_s))
        try:
            yield
        finally:
            async with self._lock:  # not in the middle of a ping
                pinging.cancel()
            await asyncio.wait([pinging])

    async def _ping(self, ping_s: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                silence_s = loop.time() - self._spoken
                if silence_s < ping_s:
                    await asyncio.sleep(ping_s - silence_s)
                else:
                    await self._write(b": ping\n\n")
        except ConnectionResetError:
            return  # the body's own next word meets the same

    async def _write(self, data: bytes, *, is_last: bool = False) -> None:
        try:
            async with asyncio.timeout(STALL_S), self._lock:
                if not self.is_begun:
                    await self._response.prepare(self._request)
                await self._response.write(data)
                if is_last:
                    await self._response.write_eof()
        except TimeoutError as error:
            metrics.CANCELLATIONS.labels("stall").inc()
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError(f"the reader took nothing for {STALL_S:g} s") from error
        self._spoken = asyncio.get_running_loop().time()
