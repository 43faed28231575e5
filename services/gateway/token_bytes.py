"""The bytes that a token stands for, by how its vocabulary spells them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

Spelling = Literal["bytes", "pieces"]
"""`bytes`: each byte is a character of its own (GPT-2 and its heirs); `pieces`: text, with a sign
for the space before a word, and single bytes as <0x0A> (SentencePiece)."""

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "▁"


def spelling_of(decoder: object) -> Spelling:
    """From the `decoder` of a tokenizer.json."""
    if not isinstance(decoder, Mapping):
        return "pieces"
    inner = decoder.get("decoders")
    parts = inner if isinstance(inner, list) else [decoder]
    kinds = {part.get("type") for part in parts if isinstance(part, Mapping)}
    return "bytes" if "ByteLevel" in kinds else "pieces"


def token_bytes(piece: str, spelling: Spelling) -> bytes:
    """Of an ordinary token, as the vocabulary writes it."""
    if spelling == "bytes":
        # Added tokens are text, in which a character may stand for no byte.
        if all(character in _BYTES for character in piece):
            return bytes(_BYTES[character] for character in piece)
        return piece.encode()
    if found := _BYTE.fullmatch(piece):
        return bytes([int(found[1], 16)])
    return piece.replace(_SPACE, " ").encode()


def _byte_characters() -> dict[str, int]:
    """GPT-2's: bytes that can be printed are themselves, the others follow from U+0100 on."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printed]
    found = {chr(byte): byte for byte in printed}
    return found | {chr(0x100 + number): byte for number, byte in enumerate(others)}


_BYTES = _byte_characters()
