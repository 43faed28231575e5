"""How long a body may take to come."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from shared.errors import QuorumError


class SlowBodyError(QuorumError):
    code = "slow_body"


def bodies_within(timeout_s: float) -> Middleware:
    """Ends the reading of a body that is not whole `timeout_s` after its headers."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        body = request.content
        if body.is_eof():  # as most are, which come with their headers
            return await handler(request)

        def expire() -> None:
            if not body.is_eof():
                body.set_exception(SlowBodyError(f"the body was not there within {timeout_s:g} s"))

        timer = asyncio.get_running_loop().call_later(timeout_s, expire)
        try:
            return await handler(request)
        except SlowBodyError:
            body.feed_eof()  # nobody waits for the rest; the connection is closed after the answer
            raise
        finally:
            timer.cancel()

    return middleware
