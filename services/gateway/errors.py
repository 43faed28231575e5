"""From errors to HTTP: the one place. Shapes and types are OpenAI's; under /v2, KServe's."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Awaitable, Callable
from math import ceil

from aiohttp import web
from aiohttp.http import HttpProcessingError

from services.gateway.responses import Json, error
from shared.errors import OverloadedError, QuorumError
from shared.log import request_scope

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
RETRY_AFTER_S = 2
REQUEST_ID = web.RequestKey("request_id", str)

# Code -> HTTP status, OpenAI's type, OpenAI's code.
STATUSES: dict[str, tuple[int, str, str | None]] = {
    "invalid_request": (400, "invalid_request_error", None),
    "message_too_large": (413, "invalid_request_error", None),
    "unauthorized": (401, "invalid_request_error", "invalid_api_key"),
    "forbidden": (403, "invalid_request_error", "insufficient_permissions"),
    "not_found": (404, "invalid_request_error", "model_not_found"),
    "overloaded": (429, "rate_limit_error", "rate_limit_exceeded"),
    "unavailable": (503, "service_unavailable_error", "unavailable"),
    "bus_unavailable": (503, "service_unavailable_error", "bus_unavailable"),
    "deadline_exceeded": (504, "timeout_error", "deadline_exceeded"),
    "request_not_found": (404, "invalid_request_error", "request_not_found"),
    "slow_body": (408, "timeout_error", "slow_body"),
    # No standard has a status for these; nginx' and gRPC's gateways answer 499.
    "cancelled": (499, "cancelled_error", "cancelled"),
    "slow_reader": (499, "cancelled_error", "slow_reader"),
}
_GIVEN_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


class NotFoundError(QuorumError):
    code = "not_found"


class UnauthorizedError(QuorumError):
    code = "unauthorized"


class ForbiddenError(QuorumError):
    code = "forbidden"


def body_of(failure: QuorumError) -> tuple[Json, int]:
    """OpenAI's error body, and the status."""
    status, kind, code = STATUSES.get(failure.code, (500, "server_error", failure.code))
    return error(str(failure), kind, getattr(failure, "param", None), code), status


class OursOnly(logging.Filter):
    """For the log of the HTTP server: bytes of strangers that are no HTTP get a 400, and no line
    with a traceback each."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Gives each request an id and turns whatever goes wrong into an answer."""
    given = request.headers.get("x-request-id", "")
    request[REQUEST_ID] = given if _GIVEN_ID.fullmatch(given) else uuid.uuid4().hex
    with request_scope(request[REQUEST_ID]):
        response = await _respond(request, handler)
    if response.status == 408:
        response.force_close()  # the rest of the body may still come
    if not response.prepared:
        response.headers["x-request-id"] = request[REQUEST_ID]
    return response


async def _respond(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except QuorumError as failure:
        body, status = body_of(failure)
        response = _response(request, str(failure), body, status)
        if isinstance(failure, OverloadedError):
            response.headers["Retry-After"] = str(max(1, ceil(failure.retry_after_s)))
        elif status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        elif status == 503:
            response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response
    except web.HTTPException as failure:
        if failure.status < 400:
            raise
        text = _http_text(request, failure)
        body = error(text, "invalid_request_error", None, None)
        response = _response(request, text, body, failure.status)
        if isinstance(failure, web.HTTPMethodNotAllowed):
            response.headers["Allow"] = ", ".join(sorted(failure.allowed_methods))
        return response
    except ConnectionResetError:
        raise
    except Exception:
        logger.exception("a fault of ours")
        text = "an internal error; see the logs"
        body = error(text, "server_error", None, "internal_error")
        return _response(request, text, body, 500)


def _response(request: web.Request, text: str, body: Json, status: int) -> web.Response:
    is_kserve = request.path == "/v2" or request.path.startswith("/v2/")
    return web.json_response({"error": text} if is_kserve else body, status=status)


def _http_text(request: web.Request, failure: web.HTTPException) -> str:
    if failure.status == 404:
        return f"there is no {request.method} {request.path[:200]}"
    if failure.status == 405:
        return f"{request.path[:200]} does not take {request.method}"
    if failure.status == 413:
        return f"the body is too large. {failure.text}"
    return failure.reason
