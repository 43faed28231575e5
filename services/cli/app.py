"""The commands of `python -m services.cli` and their options; each does its work in a module of
its own. Errors are one line, with exit code 2 for how it was called and 1 for what went wrong."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from services.cli import bench as load_generator
from services.cli import chat as conversation
from services.cli import dead_letters as letters
from services.cli import doctor as checks
from services.cli import plan as plans
from services.cli import top as overview
from services.cli.client import Json
from services.cli.dataset import Kind, bodies
from services.cli.load import Plan
from services.cli.paint import printable
from shared.bus import Bus
from shared.config import BusConfig, load
from shared.errors import ConfigError, QuorumError
from shared.runner import LOCAL_REDIS

DEFAULT_REQUESTS = 32
MAX_OPEN = 256
"""Of a load with a rate, unless --concurrency says otherwise."""


def _is_address(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{url!r} does not begin with http:// or https://")
    return url


Url = Annotated[str, typer.Option(envvar="QUORUM_URL", help="The gateway.", callback=_is_address)]
Key = Annotated[
    str | None, typer.Option(envvar="QUORUM_KEY", help="Where the gateway asks for one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="As the gateway answers it.")]
Model = Annotated[str | None, typer.Option(help="The only one there is, if left out.")]
MaxTokens = Annotated[int | None, typer.Option(min=1)]
Temperature = Annotated[float | None, typer.Option(min=0, max=2)]
TopicName = Annotated[str | None, typer.Option(help="Of this topic alone.")]
TimeoutS = Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds to be answered in.")]

app = typer.Typer(
    help="Talk to a running Quorum, watch it, load it, check it.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
dead = typer.Typer(help="What the bus of BUS_URL has put aside.")
app.add_typer(dead, name="dead-letters")


@app.command()
def chat(
    prompt: Annotated[str | None, typer.Argument(help="One question; its answer ends it.")] = None,
    url: Url = "http://127.0.0.1:8080",
    key: Key = None,
    model: Model = None,
    system: Annotated[str | None, typer.Option(help="What leads the conversation.")] = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
) -> int:
    """Talk to the model; on a terminal, each token has the colour of where it came from.

    Without a terminal, standard input is the question and the answer alone is printed.
    """
    settings = _given(model=model, temperature=temperature, max_tokens=max_tokens)
    return conversation.converse(url, key, system, settings, prompt)


@app.command()
def top(
    url: Url = "http://127.0.0.1:8080",
    key: Key = None,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="One look, as text.")] = False,
    is_json: AsJson = False,
) -> int:
    """Watch instances, queues, acceptance and tokens per second."""
    return overview.top(url, key, interval, once, is_json)


@app.command()
def bench(
    kind: Annotated[Kind, typer.Argument(help="What is asked for.")] = "completions",
    url: Url = "http://127.0.0.1:8080",
    key: Key = None,
    model: Model = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help=f"Requests at a time: 1, or at most {MAX_OPEN} with --rate."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Requests a second, by a Poisson process.")
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=1, help=f"How many; {DEFAULT_REQUESTS} without --seconds.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="How long new ones begin.")] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(help="Lines of JSON with `prompt` or `messages`, or plain prompts."),
    ] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    stream: Annotated[bool, typer.Option(help="Tells the time to the first token.")] = True,
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 0,
    timeout_s: TimeoutS = 300.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures there.")
    ] = None,
) -> int:
    """Put load on the gateway and time it; the exit code is 1 if any request failed."""
    is_text = kind != "recommendations"
    if not is_text and (max_tokens, temperature) != (None, None):
        raise ConfigError("recommendations have no --max-tokens and no --temperature")
    settings = _given(model=model, max_tokens=max_tokens, temperature=temperature)
    if requests is None and seconds is None:
        requests = DEFAULT_REQUESTS
    max_open = concurrency or (1 if rate is None else MAX_OPEN)
    asked = load_generator.Asked(
        kind, bodies(kind, dataset), settings, stream and is_text, timeout_s
    )
    plan = Plan(max_open, requests, seconds, rate, seed)
    return load_generator.bench(url, key, asked, plan, json_file)


@app.command()
def plan(
    model: Annotated[str, typer.Argument(help="A recommender that is live.")],
    url: Url = "http://127.0.0.1:8080",
    key: Key = None,
    is_json: AsJson = False,
) -> int:
    """How a recommender stores its tables, and why."""
    return plans.show(url, key, model, is_json)


@app.command()
def doctor(
    redis_url: Annotated[str | None, typer.Option(help="Instead of BUS_URL.")] = None,
    models: Annotated[Path, typer.Option(help="Folder of folders.")] = Path("models"),
) -> int:
    """Check this machine, its models and its Redis; the exit code is 1 if a check fails."""
    given = {} if redis_url is None else {"BUS_URL": redis_url}
    return checks.doctor(load(BusConfig, {**os.environ, **given}), models)


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    }
)
def models(context: typer.Context) -> int:
    """Add, list or remove models: add SOURCE --drafter SOURCE ... (add --help tells more)."""
    # A tool beside the services, which import nothing of it.
    command = [sys.executable, "-m", "models", *context.args]
    return subprocess.run(command, check=False).returncode


@dead.command("list")
def list_(topic: TopicName = None) -> int:
    """What was put aside: when, what, and why."""
    lines = asyncio.run(letters.on_the_bus(_bus(), lambda bus: letters.listed(bus, topic)))
    print(printable("\n".join(lines)))
    return 0


@dead.command()
def show(letter: Annotated[str, typer.Argument(metavar="ID")]) -> int:
    """One of them, whole."""
    told = asyncio.run(letters.on_the_bus(_bus(), lambda bus: letters.find(bus, letter)))
    print(printable("\n".join(letters.shown(told))))
    return 0


@dead.command()
def replay(
    letter: Annotated[str | None, typer.Argument(metavar="ID")] = None,
    is_all: Annotated[bool, typer.Option("--all", help="All that are there.")] = False,
    topic: TopicName = None,
    timeout_s: TimeoutS = 300.0,
) -> int:
    """Put one back into its topic, or all: once, whoever else tries."""
    if (letter is None) != is_all or (topic is not None and not is_all):
        raise ConfigError("replay takes an ID, or --all, perhaps of one --topic")
    if letter is None:
        count = asyncio.run(
            letters.on_the_bus(_bus(), lambda bus: letters.replay_all(bus, topic, timeout_s))
        )
        print(f"{count} put back")
        return 0
    wanted = letter

    async def put_back(bus: Bus) -> bool:
        return await letters.replay(bus, await letters.find(bus, wanted), timeout_s)

    if not asyncio.run(letters.on_the_bus(_bus(), put_back)):
        raise letters.LetterError(f"{letter} is not there any more: somebody else was faster")
    print("1 put back")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return int(app(given or ["--help"], prog_name="services.cli", standalone_mode=False) or 0)
    except typer.TyperException as error:
        return _complain(f"{error.format_message()} (--help tells more)", error.exit_code)
    except ConfigError as error:
        return _complain(str(error), 2)
    except QuorumError as error:
        return _complain(str(error), 1)
    except KeyboardInterrupt:
        return conversation.INTERRUPTED


def _complain(text: str, code: int) -> int:
    print(f"quorum: {printable(' '.join(text.split()))}", file=sys.stderr)
    return code


def _given(**settings: object) -> Json:
    """Those that were."""
    return {name: value for name, value in settings.items() if value is not None}


def _bus() -> BusConfig:
    return load(BusConfig, {"BUS_URL": LOCAL_REDIS, **os.environ})
