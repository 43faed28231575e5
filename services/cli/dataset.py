"""What the load generator asks: request bodies from a file, or a few of our own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from services.cli.client import Json
from shared.errors import ConfigError

Kind = Literal["completions", "chats", "recommendations"]
MAX_BYTES = 256 << 20
JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
PROMPTS = (
    "def read_lines(path):\n",
    "class Stack:\n    def __init__(self):\n",
    "import json\n\ndef load(path):\n    with open(path) as file:\n",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "What does textwrap.dedent do?",
    "The difference between a list and a tuple is",
)
CONTEXTS = (
    {"package": ["asyncio"], "imports": ["socket", "ssl"]},
    {"package": ["json"], "imports": ["re"]},
    {"package": ["email"], "imports": ["os", "sys", "io"]},
)
_FIELDS: dict[Kind, tuple[str, ...]] = {
    "completions": ("prompt",),
    "chats": ("messages", "prompt"),
    "recommendations": ("context", "candidates", "inputs"),
}


def bodies(kind: Kind, file: Path | None) -> list[Json]:
    """One for each line of the file: a JSON object, or a plain prompt. Raises ConfigError naming
    the line."""
    if file is None:
        if kind == "recommendations":
            return [{"context": context} for context in CONTEXTS]
        return [_of_prompt(kind, prompt) for prompt in PROMPTS]
    is_plain = kind != "recommendations" and not is_of_json(file)
    found = [
        _of_prompt(kind, line) if is_plain else _of_json(kind, line, where)
        for where, line in lines_of(file)
    ]
    if not found:
        raise ConfigError(f"{file} holds no line")
    return found


def is_of_json(file: Path) -> bool:
    """Whether its lines are JSON, by its name."""
    return file.suffix in JSON_SUFFIXES


def lines_of(file: Path) -> Iterator[tuple[str, str]]:
    """Where each line stands that is not blank, and the line. Raises ConfigError."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{file} is larger than {MAX_BYTES >> 20} MiB")
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{file}:{number}", line


def json_of(line: str, where: str) -> object:
    """What a line says. Raises ConfigError."""
    try:
        return json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where} is not JSON: {error}") from error


def _of_prompt(kind: Kind, prompt: str) -> Json:
    if kind == "chats":
        return {"messages": [{"role": "user", "content": prompt}]}
    return {"prompt": prompt}


def _of_json(kind: Kind, line: str, where: str) -> Json:
    content = json_of(line, where)
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where} is no JSON object")
    given = {name: content[name] for name in _FIELDS[kind] if name in content}
    if not given:
        raise ConfigError(f"{where} has no {' or '.join(_FIELDS[kind])}, which {kind} are made of")
    if kind == "chats" and "messages" not in given:
        return _of_prompt(kind, str(given["prompt"]))
    return {name: value for name, value in given.items() if kind != "chats" or name == "messages"}
