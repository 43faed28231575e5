"""Bodies on their way in: how long they may take, and what is no body at all."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from shared.errors import InvalidRequestError, QuorumError


class SlowBodyError(QuorumError):
    code = "slow_body"


def bodies_within(timeout_s: float) -> Middleware:
    """Ends the reading of a body that is not whole `timeout_s` after its headers. One that is not
    framed or compressed as its headers say is its sender's fault."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        body = request.content

        def expire() -> None:
            if not body.is_eof():
                body.set_exception(SlowBodyError(f"the body was not there within {timeout_s:g} s"))

        # Most come with their headers.
        timer = None if body.is_eof() else asyncio.get_running_loop().call_later(timeout_s, expire)
        try:
            return await handler(request)
        except web.RequestPayloadError as error:
            reason = error.__cause__ or error
            raise InvalidRequestError(f"the body cannot be read: {_one_line(reason)}") from error
        except SlowBodyError:
            body.feed_eof()  # nobody waits for the rest; the connection is closed after the answer
            raise
        finally:
            if timer is not None:
                timer.cancel()

    return middleware


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
