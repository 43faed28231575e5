"""`doctor`: what is wrong with this machine, its models and its Redis, and what to do about it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.text import Text

from services.cli import machine_checks, model_checks
from services.cli.findings import Finding, fail, ok, warn
from services.cli.paint import printable
from services.cli.redis_checks import redis
from shared.config import BusConfig

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
SETTINGS_S = 60.0


def doctor(config: BusConfig, folder: Path) -> int:
    """The command: 1 if a check fails."""
    console = Console(highlight=False) if sys.stdout.isatty() else None
    has_failed = False
    for finding in findings(config, folder):
        has_failed = has_failed or finding.verdict == "fail"
        line = printable(finding.line())
        if console is None:
            print(line, flush=True)
        else:
            text = Text(line)
            text.stylize(COLOURS[finding.verdict], 0, 4)
            console.print(text, soft_wrap=True)
    return int(has_failed)


def findings(config: BusConfig, folder: Path) -> Iterator[Finding]:
    """Check by check."""
    yield machine_checks.python()
    yield from machine_checks.packages()
    settings, finding = read_settings(os.environ)
    yield finding
    yield machine_checks.cpu()
    yield machine_checks.threads(settings)
    yield machine_checks.huge_pages()
    yield from asyncio.run(redis(config))
    yield from model_checks.models(folder)
    if "VERIFIER_MODEL" in settings:
        drafters = [Path(n.strip()) for n in settings.get("DRAFTER_MODELS", "").split(",")]
        yield from model_checks.targets(Path(settings["VERIFIER_MODEL"]), drafters)
    if "GATEWAY_PORT" in settings:
        yield machine_checks.port(settings["GATEWAY_HOST"], int(settings["GATEWAY_PORT"]))
    yield machine_checks.disk(folder)


def read_settings(environ: Mapping[str, str]) -> tuple[dict[str, str], Finding]:
    """As the services themselves read them, in a process of their own: this one knows none of
    them."""
    command = [sys.executable, "-m", "services", "--print-config"]
    try:
        told = subprocess.run(
            command, env=dict(environ), capture_output=True, text=True, timeout=SETTINGS_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {}, warn("settings", f"not read: {error}", "python -m services --print-config")
    if told.returncode == 0:
        pairs = (line.partition("=") for line in told.stdout.splitlines())
        settings = {name: value for name, found, value in pairs if found}
        return settings, ok("settings", f"{len(settings)}, all sound")
    last = (told.stderr.strip().splitlines() or ["no reason is given"])[-1]
    if told.returncode == 2:
        return {}, fail("settings", last.removeprefix("quorum: "), "mend or unset it")
    return {}, warn("settings", f"not read: {last}", "pip install -c constraints.txt '.[serve]'")
