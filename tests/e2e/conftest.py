"""One stack for all end-to-end tests, and the report at their end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.e2e.load import Load
from tests.e2e.report import Row, table
from tests.e2e.stack import PEACE, ROOT, Stack

ROWS: list[Row] = []


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The stack at its scale of peace; all that it was is removed in the end."""
    stack = Stack(PEACE)
    try:
        stack.build()
        stack.up()
        yield stack
    finally:
        stack.down()


@pytest.fixture(scope="session")
def answers(stack: Stack) -> list[str]:
    """What the undisturbed system answers to each call."""
    return asyncio.run(Load(stack.gateways).answers())


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
