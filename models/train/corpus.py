"""What the shipped models learn from: the standard library of the running Python.

Source files, and chats made from their docstrings. Every document knows its file; a file is held
out by a hash of its path, so that code and chats of one file stay on one side.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HELD_OUT_PERCENT = 5
SKIPPED_FOLDERS = {"site-packages", "test", "tests", "idle_test", "__pycache__", "turtledemo"}
MAX_FILE_BYTES = 1_000_000
MAX_ANSWER_CHARS = 1200


@dataclass(frozen=True, slots=True)
class Document:
    """One text. `path` is relative to the library's root; `kind` is `code` or `chat`."""

    path: str
    kind: str
    text: str

    @property
    def is_held_out(self) -> bool:
        """True for 5 % of the files, whatever the machine."""
        digest = hashlib.sha256(self.path.encode()).digest()
        return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def documents() -> Iterator[Document]:
    """All documents in a fixed order: each source file, then its chats."""
    for file in sources():
        yield file
        yield from chats(file.path, file.text)


def sources() -> Iterator[Document]:
    """Source files in a fixed order, those that are copies of another one once."""
    root = Path(sysconfig.get_paths()["stdlib"])
    seen: set[bytes] = set()
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if SKIPPED_FOLDERS & set(relative.parts) or path.stat().st_size > MAX_FILE_BYTES:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        digest = hashlib.sha256(text.encode()).digest()
        if digest in seen or not text.strip():
            continue
        seen.add(digest)
        yield Document(relative.as_posix(), "code", text)


def chats(path: str, text: str) -> Iterator[Document]:
    """A question and an answer for each documented function and class of a file."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for name, node in _definitions(tree, module):
        docstring = ast.get_docstring(node)
        if not docstring:
            continue
        yield _chat(path, f"What does {name} do?", docstring)
        source = ast.get_source_segment(text, node) or ""
        if isinstance(node, ast.FunctionDef) and len(source) <= MAX_ANSWER_CHARS:
            yield _chat(path, f"Show me the source of {name}.", f"```python\n{source}\n```")


def render(turns: list[tuple[str, str]], is_open: bool = False) -> str:
    """Turns of (role, content) in the ChatML form that the tokenizer's template has too."""
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return text + ("<|im_start|>assistant\n" if is_open else "")


def _chat(path: str, question: str, answer: str) -> Document:
    turns = [("user", question), ("assistant", answer[:MAX_ANSWER_CHARS].strip())]
    return Document(path, "chat", render(turns))


def _definitions(
    tree: ast.Module, prefix: str
) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield f"{prefix}.{node.name}", node
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    yield f"{prefix}.{node.name}.{member.name}", member
