"""`plan`: how a recommender that is serving stores its tables, as `services.recommender.plan` shows
one that is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from urllib.parse import quote

from services.cli.client import Client, Json
from services.cli.paint import printable
from services.cli.tables import aligned

HEAD = ("rows", "dim", "type", "bytes", "tier", "bank", "ns", "tables, reason")
RIGHT = (0, 1, 3, 5, 6)


def lines(plan: Json) -> Iterator[str]:
    """A line for each stored table, and totals."""
    rows = [
        (
            f"{stored['num_rows']:,}",
            str(stored["dim"]),
            str(stored["element"]),
            f"{stored['bytes']:,}",
            str(stored["tier"]),
            str(stored["bank"]),
            f"{stored['ns']:.1f}",
            f"{' x '.join(stored['tables'])}: {stored['reason']}",
        )
        for stored in plan["stored"]
    ]
    yield f"{plan['model']}, version {plan['version']}, planned for {plan['profile']}"
    yield from aligned(HEAD, rows, RIGHT)
    share = plan["bytes"] / plan["bytes_alone"] if plan["bytes_alone"] else 1.0
    yield (
        f"{plan['bytes']:,} bytes, {share:.1%} of the tables alone; {len(rows)} accesses, "
        f"{plan['ns_an_item']:.0f} ns an item"
    )


def show(url: str, key: str | None, model: str, is_json: bool) -> int:
    """The command. Returns the exit code. Raises RequestError."""

    async def run() -> Json:
        async with Client(url, key) as client:
            return await client.get(f"/v1/recommenders/{quote(model, safe='')}/plan")

    plan = asyncio.run(run())
    print(json.dumps(plan, indent=2) if is_json else printable("\n".join(lines(plan))))
    return 0
