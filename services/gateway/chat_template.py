"""A model's chat template. It comes with the model and is untrusted: it runs in jinja's immutable
sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from services.gateway.tools.templates import without_markers
from shared.errors import InvalidRequestError, ModelError

Message = Mapping[str, object]
"""Role, content, and what else the template takes."""


class ChatTemplate:
    """Of a model's folder: a file of its own, or in the tokenizer's `settings`. `markers` are what
    no text from outside may mean. Raises ModelError for a broken one."""

    def __init__(
        self, folder: Path, settings: Mapping[str, object], markers: Sequence[str]
    ) -> None:
        self.source = _source(folder, settings)
        """Empty where there is none."""
        self._name = folder.name
        self._tokens = {name: _content(settings.get(name)) for name in ("bos_token", "eos_token")}
        self._template = _compiled(folder, self.source, markers) if self.source else None

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, object]]) -> str:
        """The chat, open for the assistant's answer. Raises InvalidRequestError for messages that
        the template refuses."""
        if self._template is None:
            raise InvalidRequestError(
                f"{self._name} has no chat template; use /v1/completions", "messages"
            )
        try:
            return self._template.render(
                messages=messages,
                tools=list(tools) or None,
                add_generation_prompt=True,
                **self._tokens,
            )
        except TemplateError as error:
            raise InvalidRequestError(
                f"the chat template refuses these messages: {error}", "messages"
            ) from error


def _source(folder: Path, settings: Mapping[str, object]) -> str:
    """Of several templates, the one for tools, or for all."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text()
    found = settings.get("chat_template")
    if isinstance(found, list):
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("tool_use") or named.get("default")
    return found if isinstance(found, str) else ""


def _compiled(folder: Path, source: str, markers: Sequence[str]) -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now(UTC).strftime(form)
    environment.filters["tojson"] = lambda value, **options: without_markers(
        json.dumps(value, ensure_ascii=False, **options), markers
    )
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise ModelError(f"the chat template of {folder} is broken: {error}") from error


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _content(token: object) -> str:
    """A special token's text, written as text or as an object."""
    if isinstance(token, dict):
        return str(token.get("content", ""))
    return token if isinstance(token, str) else ""
