"""The report of the end-to-end tests: one table, printed at the end and kept in build/e2e."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.e2e.stack import ROOT

if TYPE_CHECKING:
    from tests.e2e.test_faults import Row

ROWS: list[Row] = []
COLUMNS = (
    *("fault", "requests", "in flight", "lost", "duplicated", "changed", "cut", "refused"),
    *("worst latency", "recovered after"),
)

COUNTS = (
    *("num_requests", "num_in_flight", "num_lost", "num_duplicated", "num_changed", "num_cut"),
    "num_refused",
)


@pytest.fixture(scope="session")
def report() -> Iterator[list[Row]]:
    """Rows to be printed."""
    yield ROWS
    folder = ROOT / "build" / "e2e"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faults.md").write_text(table(ROWS))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if ROWS:
        terminalreporter.section("faults")
        terminalreporter.write(table(ROWS))


def table(rows: list[Row]) -> str:
    """Markdown. `cut`: connections that died with their gateway, whose requests were sent again;
    `refused`: 429 and 503 answers, likewise."""
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
