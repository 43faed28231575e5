"""`chat`: answers as they are written, each token in the colour of where it came from."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import aclosing

from rich.console import Console
from rich.text import Text

from services.cli.client import Client, Json, RequestError
from services.cli.conversation import Conversation
from services.cli.paint import Painter, Palette, printable

INTERRUPTED = 130
"""What shells call the end by SIGINT."""
GREETING = "Ctrl-C stops an answer, and leaves when there is none; /new forgets what was said"


class Figures:
    """What is told after an answer."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._first: float | None = None
        self.usage: Json = {}
        self.speculation: Json = {}

    def tick(self) -> None:
        """Text has come."""
        if self._first is None:
            self._first = time.perf_counter()

    def line(self) -> str:
        """Tokens per second, rounds and acceptance, as far as they were told."""
        now = time.perf_counter()
        seconds = now - self._started
        parts = []
        if (num_tokens := self.usage.get("completion_tokens")) is not None:
            parts += [f"{num_tokens} tokens", f"{num_tokens / seconds:.0f} tokens/s"]
        parts.append(f"{seconds:.2f} s")
        if self._first is not None:
            parts.append(f"first after {self._first - self._started:.2f} s")
        told = self.speculation
        if (num_rounds := told.get("num_target_passes")) is not None:
            parts.append(f"{num_rounds} rounds")
        if told.get("num_draft_tokens"):
            parts.append(f"{told['draft_acceptance_rate']:.0%} of draft tokens accepted")
        return ", ".join(parts)


async def answer(
    conversation: Conversation, prompt: str, palette: Palette, show: Callable[[str, str], None]
) -> Figures:
    """Shows one answer piece by piece, as text and style. Raises RequestError."""
    figures, painter = Figures(), Painter(palette)
    async with aclosing(conversation.ask(prompt)) as parts:
        async for part in parts:
            if part.text:
                figures.tick()
            painter.trace(part.trace)
            for span in painter.paint(part.text):
                show(span.text, span.style)
            figures.usage = part.usage or figures.usage
            figures.speculation = part.speculation or figures.speculation
    return figures


def converse(
    url: str, key: str | None, system: str | None, settings: Json, prompt: str | None
) -> int:
    """The command: one question and its answer, or a conversation where both ends are a terminal.
    Returns the exit code. Raises RequestError."""
    is_interactive = prompt is None and sys.stdin.isatty() and sys.stdout.isatty()
    with asyncio.Runner() as runner:
        client = runner.run(Client(url, key).__aenter__())
        try:
            conversation = Conversation(client, system, settings)
            if is_interactive:
                _talk(runner, client, conversation)
                return 0
            return _say_once(runner, client, conversation, prompt or sys.stdin.read())
        finally:
            runner.run(client.__aexit__(None, None, None))


def _say_once(
    runner: asyncio.Runner, client: Client, conversation: Conversation, prompt: str
) -> int:
    """Text alone, unless it goes to a terminal. Returns the exit code."""
    if sys.stdout.isatty():
        console = Console(highlight=False)
        palette = runner.run(_palette(client))
        is_whole = _answer_in_colours(runner, conversation, prompt, palette, console)
        return 0 if is_whole else INTERRUPTED

    def show(text: str, _: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    runner.run(answer(conversation, prompt, Palette(), show))
    sys.stdout.write("\n")
    return 0


def _talk(runner: asyncio.Runner, client: Client, conversation: Conversation) -> None:
    import readline  # noqa: F401 - gives input() a line to edit, and its history

    console = Console(highlight=False)
    palette = runner.run(_palette(client))
    console.print(GREETING, style="dim")
    console.print(*(Text(printable(span.text), span.style) for span in palette.legend()))
    while True:
        try:
            prompt = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if prompt == "/new":
            conversation.forget()
        elif prompt:
            try:
                _answer_in_colours(runner, conversation, prompt, palette, console)
            except RequestError as error:
                console.print(Text(printable(str(error)), "red"))


def _answer_in_colours(
    runner: asyncio.Runner,
    conversation: Conversation,
    prompt: str,
    palette: Palette,
    console: Console,
) -> bool:
    """False if it was stopped."""

    def show(text: str, style: str) -> None:
        console.print(Text(printable(text), style), end="", soft_wrap=True)

    try:
        # A Ctrl-C cancels the task, which closes the stream; what was said stays.
        figures = runner.run(answer(conversation, prompt, palette, show))
    except KeyboardInterrupt:
        console.print(Text("\nstopped", "dim"))
        return False
    console.print(Text("\n" + figures.line(), "dim"))
    return True


async def _palette(client: Client) -> Palette:
    """Of the drafters that are live; others get their colours when they are met."""
    models = await client.get("/v1/models")
    names = [name for model in models.get("data", ()) for name in model.get("drafters", ())]
    return Palette(names)
