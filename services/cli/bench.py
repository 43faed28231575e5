"""`bench`: load on a gateway, counted and timed from the client's side."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from services.cli.client import Client, Json, RequestError
from services.cli.dataset import Kind
from services.cli.load import Load, Plan
from services.cli.paint import printable
from services.cli.report import Record, Report, lines, report
from shared.errors import ConfigError

PATHS: dict[Kind, str] = {
    "completions": "/v1/completions",
    "chats": "/v1/chat/completions",
    "recommendations": "/v1/recommendations",
}
REFRESH_S = 0.2


@dataclass(frozen=True, slots=True)
class Asked:
    """What each request is: a body of `bodies`, in turn, with `settings` on top."""

    kind: Kind
    bodies: Sequence[Json]
    settings: Json
    is_streamed: bool
    timeout_s: float


class Sender:
    """Sends requests of one kind."""

    def __init__(self, client: Client, asked: Asked) -> None:
        self._client = client
        self._asked = asked
        self._path = PATHS[asked.kind]

    async def send(self, number: int, record: Record) -> str | None:
        """See load.Send."""
        asked = self._asked
        body = {**asked.bodies[number % len(asked.bodies)], **asked.settings}
        try:
            if asked.is_streamed:
                await self._stream(body, record)
            else:
                answer = await self._client.post(self._path, body, asked.timeout_s)
                _count(answer, record)
        except RequestError as error:
            record.message = str(error)
            return error.kind
        return None

    async def _stream(self, body: Json, record: Record) -> None:
        body = {**body, "stream_options": {"include_usage": True}}
        stream = self._client.stream(self._path, body, self._asked.timeout_s)
        async with aclosing(stream) as events:
            async for event in events:
                if record.first_s is None and event.get("choices"):
                    record.first_s = time.perf_counter() - record.started
                _count(event, record)


def _count(answer: Json, record: Record) -> None:
    """Tokens by the usage, which a stream tells at its end; scores of a recommendation."""
    if usage := answer.get("usage"):
        record.num_tokens = int(usage.get("completion_tokens", 0))
        record.num_prompt_tokens = int(usage.get("prompt_tokens", 0))
    elif answer.get("object") == "list":
        record.num_tokens = len(answer.get("data") or answer.get("scores") or ())


async def measure(client: Client, asked: Asked, plan: Plan) -> Report:
    """Runs the load; a cancel ends it early, and what was done is told."""
    load = Load(plan, Sender(client, asked).send)
    started = time.perf_counter()
    try:
        async with _progress(load, plan):
            await load.run()
    except asyncio.CancelledError:
        pass  # Ctrl-C: open requests have ended as interrupted
    return report(load.records, time.perf_counter() - started, load.most_open)


def bench(url: str, key: str | None, asked: Asked, plan: Plan, file: Path | None) -> int:
    """The command: 1 if any request failed. Raises ConfigError for a place that cannot be written
    to."""
    if file is not None:
        _write(file, "")  # better now than after the run

    async def run() -> Report:
        async with Client(url, key) as client:
            return await measure(client, asked, plan)

    done = asyncio.run(run())
    unit = "items" if asked.kind == "recommendations" else "tokens"
    print(printable("\n".join(lines(done, unit))))
    if file is not None:
        content = {"url": url, "kind": asked.kind, "load": asdict(plan), **asdict(done)}
        _write(file, json.dumps(content, indent=2) + "\n")
    return 0 if done.num_requests == done.num_succeeded else 1


def _write(file: Path, content: str) -> None:
    try:
        file.write_text(content)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}") from error


@asynccontextmanager
async def _progress(load: Load, plan: Plan) -> AsyncIterator[None]:
    """A bar on the terminal that errors go to; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield
        return
    columns = (
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[open]} open, {task.fields[failed]} failed"),
    )
    total = plan.num_requests or plan.seconds or 0
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        unit = "requests" if plan.num_requests else "s"
        task = progress.add_task("", total=total, unit=unit, open=0, failed=0)
        started = time.perf_counter()

        def show() -> None:
            done = load.num_done if plan.num_requests else time.perf_counter() - started
            failed = sum(r.error is not None for r in load.records) - load.num_open
            progress.update(
                task, completed=min(total, done), open=load.num_open, failed=max(0, failed)
            )

        async def refresh() -> None:
            while True:
                show()
                await asyncio.sleep(REFRESH_S)

        refreshing = asyncio.create_task(refresh())
        try:
            yield
        finally:
            refreshing.cancel()
            show()
