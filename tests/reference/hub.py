"""A model hub: repositories of a folder, by the part of the Hugging Face protocol that downloads
need. For `huggingface_hub` itself, whose HF_ENDPOINT may be any server that speaks it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Hub:
    """Which files were asked for, and what is to go wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.fetched: list[str] = []
        """Whole files that were sent, as owner/repository/file."""
        self.gated: set[str] = set()
        """Repositories whose terms nobody has accepted."""
        self.cut_off: set[str] = set()
        """Files that end in their middle, with the connection."""

    def commit(self, repository: str) -> str:
        return hashlib.sha1(repository.encode(), usedforsecurity=False).hexdigest()

    def files(self, repository: str) -> list[Path]:
        return sorted(path for path in (self.folder / repository).rglob("*") if path.is_file())


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """A hub with the repositories owner/name of a folder."""
    hub = Hub(folder)

    class Handler(_Handler):
        pass

    Handler.hub = hub
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def _answer(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        is_told = parts[:2] == ["api", "models"]
        repository = "/".join(parts[2:4] if is_told else parts[:2])
        if not self.hub.files(repository):
            self._refuse(HTTPStatus.NOT_FOUND, "RepoNotFound", "Repository not found")
        elif repository in self.hub.gated:
            self._refuse(HTTPStatus.FORBIDDEN, "GatedRepo", f"Access to {repository} is restricted")
        elif is_told and parts[4] == "revision":
            self._tell(self._described(repository))
        elif is_told and parts[4] == "tree":
            self._tell([self._entry(repository, path) for path in self.hub.files(repository)])
        elif not is_told and parts[2] == "resolve":
            self._send(repository, "/".join(parts[4:]))
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "EntryNotFound", f"no {self.path}")

    def _described(self, repository: str) -> dict[str, object]:
        names = [entry["path"] for entry in self._entries(repository)]
        return {
            "id": repository,
            "modelId": repository,
            "sha": self.hub.commit(repository),
            "private": False,
            "tags": [],
            "downloads": 0,
            "siblings": [{"rfilename": name} for name in names],
        }

    def _entries(self, repository: str) -> list[dict[str, object]]:
        return [self._entry(repository, path) for path in self.hub.files(repository)]

    def _entry(self, repository: str, path: Path) -> dict[str, object]:
        name = path.relative_to(self.hub.folder / repository).as_posix()
        digest = hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
        return {"type": "file", "path": name, "size": path.stat().st_size, "oid": digest}

    def _send(self, repository: str, name: str) -> None:
        path = self.hub.folder / repository / name
        if not path.is_file():
            self._refuse(HTTPStatus.NOT_FOUND, "EntryNotFound", f"{name} not found")
            return
        content = path.read_bytes()
        self.send_response(HTTPStatus.OK)
        self.send_header("ETag", f'"{self._entry(repository, path)["oid"]}"')
        self.send_header("X-Repo-Commit", self.hub.commit(repository))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if f"{repository}/{name}" in self.hub.cut_off:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self.wfile.write(content)
        self.hub.fetched.append(f"{repository}/{name}")

    def _tell(self, answer: object) -> None:
        body = json.dumps(answer).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: HTTPStatus, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
