"""Whether two models mean the same by a token, told without knowing any text."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

FILE = "tokenizer.json"


def vocabulary_digest(folder: Path) -> str:
    """Of a model folder's tokens and their ids, whatever else its tokenizer has; empty where it
    has none that can be read, so that nothing is known."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        if isinstance(vocabulary, list):  # of pieces with their scores
            vocabulary = {piece: number for number, (piece, _) in enumerate(vocabulary)}
        added = {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
        pairs = sorted({**vocabulary, **added}.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16]
