"""Held-out prompts as token ids of the shipped tokenizer, all of one length.

Three kinds, from standard library files that no shipped model has learnt from: `code`, where
functions begin; `prose`, where docstrings and chats about them begin; `edits`, a short function
and then the head of its copy under another name, so that what comes next is in the prompt already.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path

from tokenizers import Tokenizer

from models.train.corpus import Document, chats, library_files

TOKENIZER = Path(__file__).parent.parent / "models" / "quorum-6m" / "tokenizer.json"
NUM_TOKENS = 64
MIN_BLOCK_TOKENS = 20
"""Shorter functions leave an `edits` prompt nearly nothing to repeat."""
KINDS = ("code", "prose", "edits")


def prompts(kind: str, count: int) -> list[list[int]]:
    """The first `count` prompts of a kind, each from another place, files taking turns. They are
    the same on every machine with the same version of Python.

    Raises:
        ValueError: the kind is unknown, or so many do not exist.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    found = _all(kind)
    if len(found) < count:
        raise ValueError(f"{count} prompts of kind {kind!r} are asked for, {len(found)} exist")
    return [list(prompt) for prompt in found[:count]]


@cache
def _all(kind: str) -> tuple[tuple[int, ...], ...]:
    found: dict[str, Callable[[Document], Iterator[list[int]]]] = {
        "code": _code,
        "prose": _prose,
        "edits": _edits,
    }
    files = [list(found[kind](file)) for file in library_files() if file.is_held_out]
    turns = (tuple(prompt) for turn in zip_longest(*files) for prompt in turn if prompt)
    return tuple(dict.fromkeys(turns))


@cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TOKENIZER))


def _encode(text: str) -> list[int]:
    return list(_tokenizer().encode(text, add_special_tokens=False).ids)


def _code(file: Document) -> Iterator[list[int]]:
    """Functions that are long enough, so that no two prompts share a line unless nested."""
    lines = file.text.split("\n")
    for function in _functions(file):
        tokens = _encode(_source(lines, function))
        if len(tokens) >= NUM_TOKENS:
            yield tokens[:NUM_TOKENS]


def _prose(file: Document) -> Iterator[list[int]]:
    """Of each documented function or class, a chat and bare prose by turns."""
    for number, chat in enumerate(chats(file.path, file.text)):
        _, _, answer = chat.text.partition("<|im_start|>assistant\n")
        if answer.startswith("```"):
            continue
        tokens = _encode(answer if number % 2 else chat.text)
        # The end of a chat, a few tokens before its last, is nothing to go on from.
        if len(tokens) > NUM_TOKENS + 4:
            yield tokens[:NUM_TOKENS]


def _edits(file: Document) -> Iterator[list[int]]:
    """What precedes a short function, that function, and the head of its copy."""
    lines = file.text.split("\n")
    for function in _functions(file):
        block = _source(lines, function)
        head, _, _ = block.partition("\n")
        if not head.rstrip().endswith(":") or f"def {function.name}(" not in head:
            continue
        copy = head.replace(f"def {function.name}(", f"def {function.name}_copy(") + "\n"
        num_block, num_copy = len(_encode(block)), len(_encode(copy))
        if num_block < MIN_BLOCK_TOKENS or num_block + num_copy > NUM_TOKENS - 4:
            continue
        before = "\n".join(lines[: function.lineno - 1])[-1000:]
        tokens = _encode(f"{before}\n{block}\n\n{copy}")
        if len(tokens) >= NUM_TOKENS:
            yield tokens[-NUM_TOKENS:]


def _functions(file: Document) -> Sequence[ast.FunctionDef]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other people's string escapes
            tree = ast.parse(file.text)
    except SyntaxError:
        return ()
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return sorted(found, key=lambda node: node.lineno)


def _source(lines: Sequence[str], function: ast.FunctionDef) -> str:
    return "\n".join(lines[function.lineno - 1 : function.end_lineno])
