"""What the shipped models learn from: the standard library and the packages that the recipe needs.

Source files, and chats made from their docstrings. Every document knows its file; a file is held
out by a hash of its path, so that code and chats of one file stay on one side.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePath

HELD_OUT_PERCENT = 5
# Tests, drawings, and `encodings`, which is tables of code points rather than text.
SKIPPED_FOLDERS = {
    *("site-packages", "test", "tests", "testing", "idle_test", "__pycache__", "turtledemo"),
    "encodings",
}
MAX_FILE_BYTES = 1_000_000
MAX_ANSWER_CHARS = 1200
MAX_PACKAGE_CHARS = 500_000
"""No large package may drown the others; which of its files stay is decided by their paths."""
PACKAGES = {
    "aiohttp": "Apache-2.0",
    "anyio": "MIT",
    "attrs": "MIT",
    "click": "BSD-3-Clause",
    "filelock": "MIT",
    "fsspec": "BSD-3-Clause",
    "h11": "MIT",
    "huggingface_hub": "Apache-2.0",
    "Jinja2": "BSD-3-Clause",
    "networkx": "BSD-3-Clause",
    "numpy": "BSD-3-Clause",
    "packaging": "Apache-2.0",
    "prometheus_client": "Apache-2.0",
    "pydantic": "MIT",
    "pydantic-settings": "MIT",
    "PyYAML": "MIT",
    "redis": "MIT",
    "rich": "MIT",
    "torch": "BSD-3-Clause",
    "transformers": "Apache-2.0",
    "typer": "MIT",
    "yarl": "Apache-2.0",
}
"""Distributions that constraints.txt pins and the `train` extra installs, with their licences."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text. `path` is relative to the library's root; `kind` is `code` or `chat`."""

    path: str
    kind: str
    text: str

    @property
    def is_held_out(self) -> bool:
        """True for 5 % of the files, whatever the machine."""
        return _number(self.path) % 100 < HELD_OUT_PERCENT


def documents() -> Iterator[Document]:
    """All documents in a fixed order, the standard library's first: each source file, then its
    chats; copies of a file once.

    Raises:
        importlib.metadata.PackageNotFoundError: one of `PACKAGES` is not installed.
    """
    seen: set[bytes] = set()
    for file in library_files():
        yield from _with_chats(file, seen)
    for name in PACKAGES:
        yield _chat(f"{name}/METADATA", f"What is {name}?", metadata.metadata(name)["Summary"])
        for file in package_files(name):
            yield from _with_chats(file, seen)


def library_files() -> Iterator[Document]:
    """Source files of the standard library in a fixed order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        yield from _read(path, path.relative_to(root))


def package_files(name: str) -> Iterator[Document]:
    """Source files of an installed distribution, a fair sample of at most `MAX_PACKAGE_CHARS`."""
    sources = [f for f in metadata.files(name) or () if f.suffix == ".py" and ".." not in f.parts]
    num_chars = 0
    for source in sorted(sources, key=lambda f: _number(f.as_posix())):
        for document in _read(Path(source.locate()), source):
            num_chars += len(document.text)
            if num_chars > MAX_PACKAGE_CHARS:
                return
            yield document


def chats(path: str, text: str) -> Iterator[Document]:
    """A question and an answer for each documented function and class of a file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other people's string escapes
            tree = ast.parse(text)
    except SyntaxError:
        return
    lines = text.split("\n")
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for name, node in _definitions(tree, module):
        docstring = ast.get_docstring(node)
        if not docstring:
            continue
        yield _chat(path, f"What does {name} do?", docstring)
        source = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
        if isinstance(node, ast.FunctionDef) and len(source) <= MAX_ANSWER_CHARS:
            yield _chat(path, f"Show me the source of {name}.", f"```python\n{source.strip()}\n```")


def render(turns: list[tuple[str, str]], is_open: bool = False) -> str:
    """Turns of (role, content) in the ChatML form that the tokenizer's template has too."""
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return text + ("<|im_start|>assistant\n" if is_open else "")


def _with_chats(file: Document, seen: set[bytes]) -> Iterator[Document]:
    digest = hashlib.sha256(file.text.encode()).digest()
    if digest not in seen:
        seen.add(digest)
        yield file
        yield from chats(file.path, file.text)


def _read(path: Path, relative: PurePath) -> Iterator[Document]:
    """The file as a document, if it is of use: text, not empty, not too long, no test."""
    if SKIPPED_FOLDERS & set(relative.parts) or path.stat().st_size > MAX_FILE_BYTES:
        return
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    if text.strip():
        yield Document(relative.as_posix(), "code", text)


def _number(path: str) -> int:
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big")


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
