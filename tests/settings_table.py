"""python -m tests.settings_table [--check]: writes docs/settings.md, and the services' part of
.env.example, anew: every setting of the code, and those of the compose files."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from shared.config import OF_CLIENTS, load
from tests.observability_tables import table
from tests.test_docs import CONFIGS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "settings.md"
EXAMPLE = ROOT / ".env.example"
FIRST = "# Where the bus is and how patient it is.\n"
"""Of the part of .env.example that is made of the classes."""
SET_BY_COMPOSE = {
    *("GATEWAY_HOST", "GATEWAY_PORT", "DRAFTER_MODELS"),
    *("QUORUM_MONITOR_HOST", "QUORUM_MONITOR_PORT", "AUTOSCALER_PROJECT"),
}
OTHER_IN_CONTAINERS = {
    "BUS_URL": "redis://redis:6379/0",
    "BUS_PASSWORD_FILE": "/run/quorum/redis-password",
    "QUORUM_LOG_FORMAT": "json",
}
OF = {"BUS_": "each process", "QUORUM_": "each process"}
"""Whose a prefix is, where that is not the service of its name."""
CLIENTS = {
    "QUORUM_URL": ("http://127.0.0.1:8080", "the gateway that is asked"),
    "QUORUM_KEY": ("", "the API key that is sent, where one is asked for"),
}
SWARM = {
    "ENV_FILE": "file of settings for all services",
    "PORT": "of the gateways, on every node",
    "PORT_MODE": "host: on the node of each gateway alone, without the routing mesh",
    "REPLICAS_DRAFTER": "of each drafter service, at the start",
    "REPLICAS_GATEWAY": "at the start",
    "REPLICAS_VERIFIER": "at the start",
    "REPLICAS_VOTER": "at the start",
    "REPLICAS_RECOMMENDER": "at the start",
    "SECRETS": "prefix of the names of the two secrets",
}
"""What deploy/swarm.yml has beside those of docker compose."""
BOUNDS = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}"}
INTRODUCTION = """\
# Settings

Made by `python -m tests.settings_table` of the code; a test holds it against that.

Every setting is an environment variable. An unknown name with one of these prefixes, or a value out
of bounds, stops the process with a sentence that names it. `python -m services --print-config`
shows all with the values that hold. `None` means that there is none, and can be written so.

In containers, a copy of [.env.example](../.env.example) named `.env` sets them; where compose
has another default, it stands in brackets. Traces have OpenTelemetry's own variables:
[observability.md](observability.md#traces)."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A row."""

    name: str
    service: str
    default: str
    values: str
    meaning: str


def of_services() -> Iterator[Setting]:
    for cls in CONFIGS:
        prefix = str(cls.model_config["env_prefix"])
        service = OF.get(prefix, prefix.rstrip("_").lower())
        defaults = load(cls, {}).effective()
        for name, field in cls.model_fields.items():
            variable = prefix + name.upper()
            yield Setting(
                variable, service, str(defaults[variable]), values(field), field.description or ""
            )


def of_containers() -> Iterator[Setting]:
    """Those of .env.example that no class has, by its comments; a test holds their defaults."""
    head = EXAMPLE.read_text().partition(FIRST)[0]
    for name, default, meaning in re.findall(r"^# ([A-Z_]+)=(.*?)(?:   # (.*))?$", head, re.M):
        yield Setting(name, "compose", default, "", meaning)


def of_swarm() -> Iterator[Setting]:
    text = (ROOT / "deploy" / "swarm.yml").read_text()
    defaults = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", text))
    for name, meaning in SWARM.items():
        yield Setting(name, "swarm", defaults[name], "", meaning)


def values(field: FieldInfo) -> str:
    """Which ones there are, as far as the class says."""
    bounds = [
        text.format(getattr(limit, name))
        for limit in field.metadata
        for name, text in BOUNDS.items()
        if getattr(limit, name, None) is not None
    ]
    patterns = [limit.pattern for limit in field.metadata if getattr(limit, "pattern", None)]
    if match := re.fullmatch(r"\^\(([\w|]+)\)(\$|://)", patterns[0] if patterns else ""):
        end = match[2].rstrip("$")
        return ", ".join(f"`{choice}{end}`" for choice in match[1].split("|"))
    return " ".join([_kind(field.annotation), *bounds])


def _kind(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if get_origin(annotation) in (UnionType, Union):
        return " or ".join(_kind(part) for part in get_args(annotation) if part is not type(None))
    if hasattr(annotation, "__value__"):
        return _kind(annotation.__value__)
    if get_args(annotation):  # Annotated
        return _kind(get_args(annotation)[0])
    names = {bool: "`True`, `False`", int: "whole number", float: "number", str: "text"}
    return names.get(annotation, "path")


def page() -> str:
    """docs/settings.md."""
    rows = [
        (f"`{s.name}`", s.service, _default(s), s.values or "text", s.meaning)
        for s in [*of_services(), *of_containers(), *of_swarm()]
    ]
    rows += [
        (f"`{name}`", "command line", f"`{CLIENTS[name][0]}`" if CLIENTS[name][0] else "", "text",
         CLIENTS[name][1])
        for name in sorted(OF_CLIENTS, reverse=True)
    ]  # fmt: skip
    head = ("variable", "of", "default", "values", "meaning")
    return f"{INTRODUCTION}\n\n{table(head, rows)}\n"


def _default(setting: Setting) -> str:
    here = f"`{setting.default}`"
    there = OTHER_IN_CONTAINERS.get(setting.name)
    return here if there is None else f"{here} (`{there}`)"


def example(text: str) -> str:
    """.env.example with its services' part as it should be."""
    head, first, _ = text.partition(FIRST)
    if not first:
        raise ValueError(f"{EXAMPLE.name} has no line {FIRST!r}")
    known = {s.name: s for s in of_services()}
    parts = []
    for cls in CONFIGS:
        prefix = str(cls.model_config["env_prefix"])
        lines = [f"# {(cls.__doc__ or '').splitlines()[0]}"]
        for name in cls.model_fields:
            setting = known[prefix + name.upper()]
            if setting.name in SET_BY_COMPOSE:
                continue
            default = OTHER_IN_CONTAINERS.get(setting.name, setting.default)
            lines.append(f"# {setting.name}={default}   # {setting.meaning}")
        parts.append("\n".join(lines) + "\n")
    return head + "\n".join(parts)


def main(arguments: Sequence[str]) -> int:
    """Writes both files, or says which are old."""
    is_check = "--check" in arguments
    # The example first: the page takes the containers' part from it.
    made = {EXAMPLE: example(EXAMPLE.read_text()), PAGE: page()}
    old = [file for file, text in made.items() if not file.is_file() or file.read_text() != text]
    if is_check:
        for file in old:
            print(f"{file} is old; python -m tests.settings_table makes it anew", file=sys.stderr)
        return 1 if old else 0
    for file in old:
        file.write_text(made[file])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
