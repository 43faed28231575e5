"""/openapi.json, and the page at /docs that shows it. The document asks for a key as any route
does; the page, which holds nothing but itself, does not."""

from __future__ import annotations

import hashlib
import json

from aiohttp import web

from services.gateway.pages import STATIC, add_page
from services.gateway.reference.openapi import document


def add_documentation(app: web.Application) -> None:
    """Adds both."""
    content = json.dumps(document(), ensure_ascii=False).encode()
    etag = hashlib.sha256(content).hexdigest()[:32]

    async def openapi(request: web.Request) -> web.Response:
        """304 for who has it already."""
        if etag in {tag.value for tag in request.if_none_match or ()}:
            response = web.Response(status=304)
        else:
            response = web.Response(body=content, content_type="application/json")
        response.etag = etag
        response.headers["Cache-Control"] = "no-cache"
        return response

    app.router.add_get("/openapi.json", openapi)
    add_page(app, "/docs", STATIC / "docs")
