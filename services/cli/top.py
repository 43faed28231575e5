"""`top`: who is live, what waits, how much is accepted; again and again, or once."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from services.cli import snapshot
from services.cli.client import Client, Json, RequestError
from services.cli.paint import printable
from services.cli.tables import aligned

PATH = "/v1/status"
NUMBERS = {"instances", "acceptance", "now", "proposed", "votes won", "weight"}


async def show_once(client: Client, is_json: bool) -> None:
    """One look, as text. Raises RequestError."""
    status = await client.get(PATH)
    print(json.dumps(status, indent=2) if is_json else printable("\n".join(_lines(status))))


async def watch(client: Client, interval_s: float) -> None:
    """Looks until cancelled. Raises RequestError if the first look fails; later ones are shown
    and tried again."""
    before, now = None, await client.get(PATH)
    with Live(_page(None, now, ""), console=Console(), screen=True, auto_refresh=False) as live:
        while True:
            await asyncio.sleep(interval_s)
            trouble = ""
            try:
                before, now = now, await client.get(PATH)
            except RequestError as error:
                trouble = str(error)
            live.update(_page(before, now, trouble), refresh=True)


def top(url: str, key: str | None, interval_s: float, is_once: bool, is_json: bool) -> int:
    """The command. Returns the exit code. Raises RequestError."""

    async def run() -> None:
        async with Client(url, key) as client:
            if is_once or is_json or not sys.stdout.isatty():
                await show_once(client, is_json)
            else:
                await watch(client, interval_s)

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        return 0  # the way out of it
    return 0


def _lines(status: Json) -> Iterator[str]:
    width = max(len(name) for name, _ in snapshot.figures(status, None))
    for name, value in snapshot.figures(status, None):
        yield f"{name.ljust(width)}  {value}"
    yield ""
    yield from aligned(snapshot.INSTANCE_HEAD, snapshot.instances(status), right=[2])
    if rows := snapshot.drafters(None, status):
        yield ""
        yield from aligned(snapshot.DRAFTER_HEAD, rows, right=range(1, 6))


def _page(before: Json | None, now: Json, trouble: str) -> RenderableType:
    figures = Table.grid(padding=(0, 3))
    pairs = snapshot.figures(now, snapshot.rates(before, now))
    for start in range(0, len(pairs), 3):
        figures.add_row(
            *(
                Text.assemble((name, "dim"), " ", printable(value))
                for name, value in pairs[start : start + 3]
            )
        )
    parts: list[RenderableType] = [
        figures,
        Text(),
        _table(snapshot.INSTANCE_HEAD, snapshot.instances(now)),
        Text(),
        _table(snapshot.DRAFTER_HEAD, snapshot.drafters(before, now)),
        Text("\nCtrl-C leaves", "dim"),
    ]
    if trouble:
        parts.append(Text(printable(trouble), "red"))
    return Group(*parts)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    """Where there is too little room, the last column is cut."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column, name in enumerate(head):
        width = max(len(line[column]) for line in (head, *rows))
        table.add_column(
            name,
            justify="right" if name in NUMBERS else "left",
            header_style="bold",
            no_wrap=True,
            min_width=width if column < len(head) - 1 else None,
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table
