"""How long a request may take: what its body says, or its header, whichever is shorter."""

from __future__ import annotations

from math import isfinite

from aiohttp import web

from shared.errors import InvalidRequestError

HEADER = "X-Request-Timeout"
"""In seconds. Proxies can set it for clients that cannot."""


def timeout_of(request: web.Request, said_s: float | None) -> float | None:
    """None where neither says anything. Raises InvalidRequestError."""
    given = request.headers.get(HEADER)
    if given is None:
        return said_s
    try:
        header_s = float(given)
    except ValueError:
        header_s = 0.0
    if not isfinite(header_s) or header_s <= 0:
        raise InvalidRequestError(f"{HEADER} is {given[:40]!r}; it takes seconds, more than 0")
    return header_s if said_s is None else min(said_s, header_s)
