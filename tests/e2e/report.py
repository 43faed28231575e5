"""The table of what faults did: one row each, printed at the end and kept in build/e2e."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

COLUMNS = (
    *("fault", "requests", "in flight", "lost", "duplicated", "changed", "cut", "refused"),
    *("worst latency", "recovered after"),
)
COUNTS = (
    *("num_requests", "num_in_flight", "num_lost", "num_duplicated", "num_changed", "num_cut"),
    "num_refused",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One fault. `num_cut`: connections that died with their gateway, whose requests were sent
    again; `num_refused`: answers 429 and 503, likewise."""

    fault: str
    num_requests: int
    num_in_flight: int
    num_lost: int
    num_duplicated: int
    num_changed: int
    num_cut: int
    num_refused: int
    worst_s: float
    recovery_s: float


def table(rows: Sequence[Row]) -> str:
    """Markdown, with the sums and the worst in the last line."""
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    lines += [
        (row.fault, *(str(getattr(row, name)) for name in COUNTS),
         f"{row.worst_s:.1f} s", f"{row.recovery_s:.1f} s")
        for row in rows
    ]  # fmt: skip
    sums = [str(sum(getattr(row, name) for row in rows)) for name in COUNTS]
    worst_s = max((row.worst_s for row in rows), default=0.0)
    recovery_s = max((row.recovery_s for row in rows), default=0.0)
    lines.append(("all", *sums, f"{worst_s:.1f} s", f"{recovery_s:.1f} s"))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
