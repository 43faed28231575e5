"""The fenced blocks of the documents, and the commands of those that show a terminal."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")),
    "deploy/autoscaler/README.md",
)
PROMPT = "$ "


@dataclass(frozen=True, slots=True)
class Block:
    """What stands between two fences; `line` is the first one's."""

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    """What is typed at a prompt, and what is shown to come of it."""

    text: str
    output: Sequence[str]


def blocks(document: str) -> Iterator[Block]:
    """Of a document of the repository. Raises ValueError for a fence that is not closed."""
    found: list[str] | None = None
    start, language = 0, ""
    for number, line in enumerate((ROOT / document).read_text().splitlines(), 1):
        fence = re.fullmatch(r"\s*```(.*)", line)
        if fence is None:
            if found is not None:
                found.append(line)
        elif found is None:
            found, start, language = [], number, fence[1].strip()
        else:
            yield Block(document, start, language, "\n".join(found) + "\n")
            found = None
    if found is not None:
        raise ValueError(f"{document}:{start}: a block without an end")


def commands(text: str) -> list[Command]:
    """Of a terminal's text: a command goes on while its line ends with a backslash or within
    quotes; all else is output. Raises ValueError for output before any command."""
    found: list[tuple[list[str], list[str]]] = []
    for line in text.splitlines():
        if line.startswith(PROMPT):
            found.append(([line.removeprefix(PROMPT)], []))
        elif not found:
            raise ValueError(f"{line!r} comes before any command")
        elif _is_open("\n".join(found[-1][0])):
            found[-1][0].append(line)
        else:
            found[-1][1].append(line)
    return [Command("\n".join(lines), output) for lines, output in found]


def _is_open(command: str) -> bool:
    if command.endswith("\\"):
        return True
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return True
    return False


def words(command: str) -> tuple[dict[str, str], list[str]]:
    """The variables that are set before a command, and its words."""
    variables, rest = {}, shlex.split(command, comments=True)
    while rest and (match := re.fullmatch(r"([A-Z_][A-Z0-9_]*)=(.*)", rest[0], re.DOTALL)):
        variables[match[1]] = match[2]
        rest = rest[1:]
    return variables, rest


def same_shape(expected: str, actual: str) -> bool:
    """Whether two lines differ in numbers and spaces alone; `...` at the end is any end."""
    wanted, found = _shape(expected), _shape(actual)
    if wanted.endswith("..."):
        return found.startswith(wanted.removesuffix("...").rstrip())
    return wanted == found


def _shape(line: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\d[\d,.]*\d|\d|-(?=\s)", "#", line)).strip()
