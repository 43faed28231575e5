"""Server-sent events: JSON objects one by one, comment lines while there is nothing to say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TypeVar

from aiohttp import web

from services.gateway import metrics
from services.gateway.errors import REQUEST_ID
from services.gateway.responses import Json

T = TypeVar("T")
STALL_S = 30.0
"""A reader that takes nothing for so long is disconnected; what is generated for it ends."""


class EventStream:
    """One streamed response. The headers go out with the first event or comment, so that an error
    before it can still be an ordinary response."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
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

    async def ping(self) -> None:
        """A comment: keeps proxies awake, means nothing to clients."""
        await self._write(b": ping\n\n")

    async def end(self) -> web.StreamResponse:
        """OpenAI's last event."""
        await self._write(b"data: [DONE]\n\n")
        await self._response.write_eof()
        return self._response

    async def relay(self, source: AsyncIterator[T], ping_s: float) -> AsyncIterator[T]:
        """The source's items as they come, with a ping for every `ping_s` of silence."""
        while True:
            following = asyncio.ensure_future(anext(source))
            try:
                while not (await asyncio.wait([following], timeout=ping_s))[0]:
                    await self.ping()
                item = following.result()
            except StopAsyncIteration:
                return
            finally:
                following.cancel()
                await asyncio.wait([following])
            yield item

    async def _write(self, data: bytes) -> None:
        if not self.is_begun:
            await self._response.prepare(self._request)
        try:
            async with asyncio.timeout(STALL_S):
                await self._response.write(data)
        except TimeoutError as error:
            metrics.CANCELLATIONS.labels("stall").inc()
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError(f"the reader took nothing for {STALL_S:g} s") from error
