"""Text to token ids and back; the one place in Quorum that knows text.

Markers of a chat template inside a message (`<|im_end|>` and the like) stay plain text.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from services.gateway.chat_template import ChatTemplate, Message
from services.gateway.token_bytes import spelling_of, token_bytes
from shared.errors import InvalidRequestError, ModelError
from shared.lm.manifest import Manifest, load_manifest
from shared.lm.vocabulary import vocabulary_digest

FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""What the gateway needs of a model's folder; the graph may be elsewhere."""


class TextModel:
    """The tokenizer and template of a target model's folder. Raises ModelError."""

    def __init__(self, folder: Path) -> None:
        self.manifest: Manifest = load_manifest(folder, FILES)
        self.vocabulary = vocabulary_digest(folder)
        file = folder / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
            # A second one that takes markers for ordinary text.
            self._plain = Tokenizer.from_file(str(file))
            self._plain.encode_special_tokens = True
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"{folder} has no usable tokenizer.json: {error}") from error
        added = self._tokenizer.get_added_tokens_decoder()
        self._added = {token.content for token in added.values()}
        self._spelling = spelling_of(json.loads(file.read_text()).get("decoder"))
        self.markers = [token.content for token in added.values() if token.special]
        """Of the template: what no text from outside may mean."""
        self._marker_ids = {number for number, token in added.items() if token.special}
        self.template = ChatTemplate(folder, _tokenizer_settings(folder), self.markers)

    def encode(self, text: str) -> list[int]:
        """Token ids; markers in the text count as such."""
        return list(self._tokenizer.encode(text).ids)

    def encode_chat(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, object]] = ()
    ) -> list[int]:
        """Token ids of the rendered chat, open for the assistant's answer."""
        contents = [str(message["content"]) for message in messages]
        if not any(marker in content for content in contents for marker in self.markers):
            rendered = self.template.render(messages, tools)
            return list(self._tokenizer.encode(rendered, add_special_tokens=False).ids)
        # Render with stand-ins, then encode what the messages say without markers.
        stand_ins = {secrets.token_hex(16): content for content in contents}
        hidden = [{**m, "content": key} for m, key in zip(messages, stand_ins, strict=True)]
        ids: list[int] = []
        rest = self.template.render(hidden, tools)
        for key, content in stand_ins.items():
            before, found, rest = rest.partition(key)
            ids += self._tokenizer.encode(before, add_special_tokens=False).ids
            if found:
                ids += self._plain.encode(content, add_special_tokens=False).ids
        return ids + list(self._tokenizer.encode(rest, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int], *, with_markers: bool = False) -> str:
        """The text of tokens, without markers unless they are asked for."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=not with_markers))

    def is_marker(self, token: int) -> bool:
        """Whether it is no part of a text."""
        return token in self._marker_ids

    def require_tokens(self, tokens: Sequence[int], param: str) -> None:
        """Raises InvalidRequestError for a token that there is not."""
        size = self.manifest.vocab_size
        if max(tokens, default=0) >= size:
            raise InvalidRequestError(f"{param}: token ids must be below {size}", param)

    def token(self, token: int) -> str:
        """How the vocabulary writes it."""
        return str(self._tokenizer.id_to_token(token))

    def token_bytes(self, token: int) -> bytes:
        """What it stands for in a text; of a marker, its name."""
        piece = self._tokenizer.id_to_token(token)
        if piece is None:
            return b""
        return piece.encode() if piece in self._added else token_bytes(piece, self._spelling)

    def token_text(self, token: int) -> str:
        """The same as text, with a sign for bytes that are none by themselves."""
        return self.token_bytes(token).decode("utf-8", "replace")

    @property
    def has_template(self) -> bool:
        """Whether chats can be rendered."""
        return bool(self.template.source)


class Detokenizer:
    """Tokens in, text out as soon as it is certain: a character split over several tokens waits
    for its last byte. The pieces join to the text of all tokens, in which markers are left out but
    for those in `kept`."""

    def __init__(self, model: TextModel, kept: Collection[str] = ()) -> None:
        self._model = model
        self._kept = kept
        self._tokens: list[int] = []
        self._start = 0
        self._done = 0
        """Text of tokens[start:done] is out; start trails so that spaces decode in context."""

    def push(self, token: int) -> str:
        """The text that has become certain."""
        if self._kept and self._model.is_marker(token):
            marker = self._model.token_text(token)
            return self.flush() + marker if marker in self._kept else ""
        self._tokens.append(token)
        known, now = self._texts()
        if now.endswith("�") or len(now) <= len(known):
            return ""
        self._start, self._done = self._done, len(self._tokens)
        return now[len(known) :]

    def flush(self) -> str:
        """What is left at the end, incomplete characters replaced."""
        known, now = self._texts()
        self._start = self._done = len(self._tokens)
        return now[len(known) :]

    def _texts(self) -> tuple[str, str]:
        known = self._model.decode(self._tokens[self._start : self._done])
        return known, self._model.decode(self._tokens[self._start :])


def _tokenizer_settings(folder: Path) -> dict[str, object]:
    file = folder / "tokenizer_config.json"
    settings: dict[str, object] = json.loads(file.read_text()) if file.is_file() else {}
    return settings
