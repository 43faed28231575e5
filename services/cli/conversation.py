"""A chat with the gateway: what was said, and answers as they come."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from services.cli.client import Client, Json, RequestError

PATH = "/v1/chat/completions"
EXTRAS: Json = {
    "stream_options": {"include_usage": True},
    "return_speculation": True,
    "return_trace": True,
}
"""Asked for besides the text; a server that refuses one by name is asked without it."""


@dataclass(frozen=True, slots=True)
class Part:
    """One event of an answer."""

    text: str
    trace: Json = field(default_factory=dict)
    usage: Json = field(default_factory=dict)
    speculation: Json = field(default_factory=dict)


class Conversation:
    """Remembers what was said; `settings` go into each request as they are."""

    def __init__(self, client: Client, system: str | None, settings: Json) -> None:
        self._client = client
        self._system = [{"role": "system", "content": system}] if system else []
        self._settings = settings
        self._said: list[Json] = []
        self._extras = dict(EXTRAS)

    def forget(self) -> None:
        """Begins anew."""
        self._said.clear()

    async def ask(self, prompt: str) -> AsyncGenerator[Part, None]:
        """The answer's parts. What of it was said is remembered, even if nobody listens to its
        end; a question that was refused is not. Raises RequestError."""
        question = {"role": "user", "content": prompt}
        answer = ""
        try:
            async with aclosing(self._events([*self._system, *self._said, question])) as events:
                async for event in events:
                    part = _part(event)
                    answer += part.text
                    yield part
        finally:
            if answer:
                self._said += [question, {"role": "assistant", "content": answer}]

    async def _events(self, messages: list[Json]) -> AsyncGenerator[Json, None]:
        while True:
            body = {**self._settings, "messages": messages, **self._extras}
            try:
                async with aclosing(self._client.stream(PATH, body)) as events:
                    async for event in events:
                        yield event
                return
            except RequestError as error:
                if error.status != 400 or error.param not in self._extras:
                    raise
                del self._extras[error.param]


def _part(event: Json) -> Part:
    choices: list[Any] = event.get("choices") or [{}]
    text = (choices[0].get("delta") or {}).get("content") or ""
    metrics = event.get("metrics") or {}
    return Part(
        str(text),
        event.get("trace") or {},
        event.get("usage") or {},
        metrics.get("speculative_decoding") or {},
    )
