"""Text to token ids and back; the one place in Quorum that knows text.

Chat templates come with models and are untrusted: they run in jinja's immutable sandbox. Markers
of the template inside a message (`<|im_end|>` and the like) stay plain text.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from services.gateway.errors import NotFoundError
from services.gateway.token_bytes import spelling_of, token_bytes
from shared.errors import InvalidRequestError, ModelError
from shared.lm.manifest import Manifest, load_manifest

Message = Mapping[str, object]
"""Role, content, and what else the template takes."""
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""What the gateway needs of a model's folder; the graph may be elsewhere."""


class TextModel:
    """The tokenizer and template of a target model's folder. Raises ModelError."""

    def __init__(self, folder: Path) -> None:
        self.manifest: Manifest = load_manifest(folder, FILES)
        file = folder / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
            # A second one that takes markers for ordinary text.
            self._plain = Tokenizer.from_file(str(file))
            self._plain.encode_special_tokens = True
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"{folder} has no usable tokenizer.json: {error}") from error
        added = self._tokenizer.get_added_tokens_decoder().values()
        self._special = {token.content for token in added}
        self._spelling = spelling_of(json.loads(file.read_text()).get("decoder"))
        self.markers = [token.content for token in added if token.special]
        """Of the template: what no text from outside may mean."""
        self._settings = _tokenizer_settings(folder)
        self.template_source = _template_source(folder, self._settings)
        self._template = _template(folder, self.template_source)

    def encode(self, text: str) -> list[int]:
        """Token ids; markers in the text count as such."""
        return list(self._tokenizer.encode(text).ids)

    def encode_chat(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, object]] = ()
    ) -> list[int]:
        """Token ids of the rendered chat, open for the assistant's answer."""
        contents = [str(message["content"]) for message in messages]
        if not any(marker in content for content in contents for marker in self.markers):
            rendered = self._render(messages, tools)
            return list(self._tokenizer.encode(rendered, add_special_tokens=False).ids)
        # Render with stand-ins, then encode what the messages say without markers.
        stand_ins = {secrets.token_hex(16): content for content in contents}
        hidden = [{**m, "content": key} for m, key in zip(messages, stand_ins, strict=True)]
        ids: list[int] = []
        rest = self._render(hidden, tools)
        for key, content in stand_ins.items():
            before, found, rest = rest.partition(key)
            ids += self._tokenizer.encode(before, add_special_tokens=False).ids
            if found:
                ids += self._plain.encode(content, add_special_tokens=False).ids
        return ids + list(self._tokenizer.encode(rest, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int], *, with_markers: bool = False) -> str:
        """The text of tokens, without special ones unless they are asked for."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=not with_markers))

    def require_model(self, name: str | None) -> None:
        """Raises NotFoundError for another model."""
        if name not in (None, self.manifest.name):
            raise NotFoundError(f"model {name!r} does not exist; there is {self.manifest.name}")

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
        return piece.encode() if piece in self._special else token_bytes(piece, self._spelling)

    def token_text(self, token: int) -> str:
        """The same as text, with a sign for bytes that are none by themselves."""
        return self.token_bytes(token).decode("utf-8", "replace")

    @property
    def has_template(self) -> bool:
        """Whether chats can be rendered."""
        return self._template is not None

    def _render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, object]]) -> str:
        if self._template is None:
            raise InvalidRequestError(
                f"{self.manifest.name} has no chat template; use /v1/completions", "messages"
            )
        try:
            return self._template.render(
                messages=messages,
                tools=list(tools) or None,
                add_generation_prompt=True,
                bos_token=_content(self._settings.get("bos_token")),
                eos_token=_content(self._settings.get("eos_token")),
            )
        except TemplateError as error:
            raise InvalidRequestError(
                f"the chat template refuses these messages: {error}", "messages"
            ) from error


class Detokenizer:
    """Tokens in, text out as soon as it is certain: a character split over several tokens waits
    for its last byte. The pieces join to the text of all tokens."""

    def __init__(self, model: TextModel) -> None:
        self._model = model
        self._tokens: list[int] = []
        self._start = 0
        self._done = 0
        """Text of tokens[start:done] is out; start trails so that spaces decode in context."""

    def push(self, token: int) -> str:
        """The text that has become certain."""
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


def _template_source(folder: Path, settings: Mapping[str, object]) -> str:
    """Of the chat template: a file of its own, or in the tokenizer's settings; empty where there
    is none. Of several, the one for all."""
    file = folder / "chat_template.jinja"
    source = file.read_text() if file.is_file() else settings.get("chat_template")
    return source if isinstance(source, str) else ""


def _template(folder: Path, source: str) -> Template | None:
    if not source:
        return None
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now(UTC).strftime(form)
    environment.filters["tojson"] = lambda value, **options: json.dumps(
        value, ensure_ascii=False, **options
    )
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise ModelError(f"the chat template of {folder} is broken: {error}") from error


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _tokenizer_settings(folder: Path) -> dict[str, object]:
    file = folder / "tokenizer_config.json"
    settings: dict[str, object] = json.loads(file.read_text()) if file.is_file() else {}
    return settings


def _content(token: object) -> str:
    """A special token's text, written as text or as an object."""
    if isinstance(token, dict):
        return str(token.get("content", ""))
    return token if isinstance(token, str) else ""
