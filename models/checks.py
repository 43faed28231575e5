"""What must hold of a target and its draft models before they are served, and what is good to know.

A fault is a ModelError; what costs speed or a route only is a sentence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from shared.errors import ModelError
from shared.lm.decoder import Decoder, Row
from shared.lm.manifest import Manifest
from shared.lm.self_test import check_rows

TOKENIZER = "tokenizer.json"
PROBE = "Once upon a time there was a programmer. This is what she wrote:\n\ndef main():\n    "
NUM_PROBE_TOKENS = 48


def tokenizer(folder: Path) -> Tokenizer:
    """Of a folder, exported or not. Raises ModelError."""
    file = folder / TOKENIZER
    if not file.is_file():
        raise ModelError(f"{folder} has no {TOKENIZER}")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{file} cannot be read: {error}") from error


def require_same_tokens(target: Path, drafter: Path, hint: str) -> None:
    """Raises ModelError that names the first token in which the two differ, with the hint."""
    theirs, ours = (
        tokenizer(folder).get_vocab(with_added_tokens=True) for folder in (target, drafter)
    )
    if theirs == ours:
        return
    names = [{id_: name for name, id_ in vocabulary.items()} for vocabulary in (theirs, ours)]
    differ = sorted(
        i for i in names[0].keys() | names[1].keys() if names[0].get(i) != names[1].get(i)
    )
    first = differ[0]
    there, here = (repr(own[first]) if first in own else "none" for own in names)
    raise ModelError(
        f"{drafter.name} has other tokens than {target.name}: token {first} is {there} in "
        f"{target.name} and {here} in {drafter.name}, and {len(differ) - 1} more differ. {hint}"
    )


def require_tokens_within(folder: Path, manifest: Manifest) -> None:
    """Raises ModelError for a tokenizer that has tokens of which the graph knows nothing."""
    highest = max(tokenizer(folder).get_vocab(with_added_tokens=True).values(), default=0)
    if highest >= manifest.vocab_size:
        raise ModelError(
            f"{folder.name}: its tokenizer has a token {highest}, but its graph ends at "
            f"{manifest.vocab_size - 1}"
        )


def remarks_on_target(folder: Path, manifest: Manifest) -> Iterator[str]:
    """What clients of this target will have to do without."""
    settings = folder / "tokenizer_config.json"
    content = json.loads(settings.read_text()) if settings.is_file() else {}
    if not (folder / "chat_template.jinja").is_file() and "chat_template" not in content:
        yield f"{manifest.name} has no chat template: /v1/chat/completions will refuse"
    if not manifest.eos_token_ids:
        yield f"{manifest.name} names no end of text: only max_tokens and stop end its answers"


def remarks_on_drafter(manifest: Manifest, target: Manifest) -> Iterator[str]:
    """Where this draft model will be silent."""
    if manifest.max_context < target.max_context:
        yield (
            f"{manifest.name} proposes nothing beyond {manifest.max_context} tokens; "
            f"{target.name} goes on to {target.max_context}"
        )


def remarks_on_rows(decoder: Decoder) -> Iterator[str]:
    """The verifier's self test, here and now."""
    result = check_rows(decoder)
    if result.num_unequal:
        yield (
            f"{decoder.manifest.name}: {result.num_unequal} of {result.num_compared} rows differ "
            "in a bit by what shares their pass, so that a text may depend on the load"
        )


def probe(target: Decoder, prompt: list[int]) -> list[int]:
    """The prompt with what the target says, greedily, behind it."""
    tokens, num_cached = list(prompt), 0
    for _ in islice(range(NUM_PROBE_TOKENS), target.manifest.max_context - len(prompt)):
        (logits,) = target.forward([Row(0, num_cached, tokens[num_cached:], 1)])
        num_cached = len(tokens)
        tokens.append(int(logits[-1].argmax()))
    return tokens


def agreement(drafter: Decoder, tokens: list[int], num_prompt_tokens: int) -> float:
    """Of the target's tokens behind the prompt, the share that the draft model would have said."""
    said = tokens[num_prompt_tokens:]
    (logits,) = drafter.forward([Row(0, 0, tokens[:-1], len(said))])
    return float((logits.argmax(axis=1) == np.array(said)).mean())
