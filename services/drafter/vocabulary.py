"""Two model folders' tokenizers as a Pair; with services/gateway, the only ones that know text.

Imported only where a draft model is to be translated for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, processors

from services.drafter.translation import Encoded, Pair
from shared.errors import ModelError
from shared.lm.manifest import load_manifest

FILE = "tokenizer.json"


class FolderVocabulary:
    """The tokenizer of an exported model's folder. Raises ModelError."""

    def __init__(self, folder: Path) -> None:
        manifest = load_manifest(folder, (FILE,))
        try:
            tokenizer = Tokenizer.from_file(str(folder / FILE))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"{folder} has no usable {FILE}: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.ids: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
        if max(self.ids.values(), default=0) >= manifest.vocab_size:
            raise ModelError(f"{folder / FILE} has tokens beyond the model's {manifest.vocab_size}")
        added = tokenizer.get_added_tokens_decoder().items()
        self.markers = {token.content: id_ for id_, token in added if token.special}
        self.end_tokens = manifest.eos_token_ids
        self.prefix = _prefix(tokenizer)
        tokenizer.encode_special_tokens = True
        # Adds nothing and, unlike what some tokenizers have here, leaves spaces in the spans.
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        self._tokenizer = tokenizer

    def encode(self, text: str) -> Encoded:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return Encoded(encoding.ids, encoding.offsets)

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False))


def make_pair(target: Path, own: Path) -> Pair | None:
    """None where both have the same tokens, so that there is nothing to translate. Raises
    ModelError."""
    theirs, ours = FolderVocabulary(target), FolderVocabulary(own)
    if theirs.ids == ours.ids:
        return None
    return Pair(theirs, ours, _markers(theirs, ours), _markers(ours, theirs), ours.prefix)


def _markers(source: FolderVocabulary, other: FolderVocabulary) -> dict[int, int | None]:
    """Each marker of `source`, and the other's of the same name, or the first that ends a text
    where this one does."""
    end = next(iter(other.end_tokens), None)
    found = {
        id_: other.markers.get(name, end if id_ in source.end_tokens else None)
        for name, id_ in source.markers.items()
    }
    # An end that is no marker by the tokenizer's account is one all the same.
    return found | {id_: end for id_ in source.end_tokens if id_ not in found}


def _prefix(tokenizer: Tokenizer) -> list[int]:
    """What the tokenizer puts before a text of its own accord."""
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a", add_special_tokens=True).ids
    starts = range(len(whole) - len(plain) + 1)
    return next((whole[:n] for n in starts if whole[n : n + len(plain)] == plain), [])
