"""Pages of static files, read once at the start: `folder/index.html` at a path, and each other
file at /static/FOLDER/NAME. Nothing on them may come from elsewhere: the policy forbids it.

They are open where keys are asked for, since no browser sends one with a page; what a page asks
for, it asks with the key that its reader types in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

STATIC = Path(__file__).parent / "static"
INDEX = "index.html"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Kept by browsers, and asked about each time: an answer without a body, mostly.
    "Cache-Control": "no-cache",
}
KINDS = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}


@dataclass(frozen=True, slots=True)
class File:
    """One file as it is served."""

    kind: str
    content: bytes
    etag: str

    def answer(self, request: web.Request) -> web.Response:
        """Its content, or 304 for who has it already."""
        known = {tag.value for tag in request.if_none_match or ()}
        if self.etag in known or "*" in known:
            response = web.Response(status=304, headers=HEADERS)
        else:
            response = web.Response(body=self.content, content_type=self.kind, headers=HEADERS)
            if self.kind.startswith("text/"):
                response.charset = "utf-8"
        response.etag = self.etag
        return response


def add_page(app: web.Application, path: str, folder: Path) -> None:
    """Adds `path` and /static/FOLDER/... for the files below `folder`."""
    files = _read(folder)
    index = files.pop(INDEX)

    async def page(request: web.Request) -> web.Response:
        return index.answer(request)

    async def part(request: web.Request) -> web.Response:
        # Looked up among what was read: no path of a request ever reaches the file system.
        found = files.get(request.match_info["file"])
        if found is None:
            raise web.HTTPNotFound
        return found.answer(request)

    app.router.add_get(path, page)
    app.router.add_get(f"/static/{folder.name}/{{file:.+}}", part)


def is_page(handler: Handler) -> bool:
    """Whether a route's handler is one of those above."""
    return getattr(handler, "__module__", None) == __name__


def _read(folder: Path) -> dict[str, File]:
    """By name relative to the folder. A file of an unknown kind is a fault of ours."""
    files: dict[str, File] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            etag = hashlib.sha256(content).hexdigest()[:32]
            files[path.relative_to(folder).as_posix()] = File(KINDS[path.suffix], content, etag)
    return files
