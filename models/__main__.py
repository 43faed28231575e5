"""python -m models add SOURCE --drafter SOURCE ... | list | remove NAME

SOURCE is a Hugging Face folder, a hub id, or a folder that was exported before; NAME=SOURCE names
a draft model otherwise. What was not exported before needs the extra `export`.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import NoReturn

from models import library
from shared.errors import ModelError
from shared.served import FILE_NAME

PRECISIONS = ("fp32", "fp16", "half", "int8", "int4")


def main(argv: list[str] | None = None) -> int:
    """The command. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="models", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="export a target and its draft models")
    add.add_argument("source", help="the target: a folder or a hub id")
    add.add_argument("--drafter", action="append", default=[], metavar="[NAME=]SOURCE")
    add.add_argument("--name", help="the target's; otherwise its source's last part")
    add.add_argument("--precision", choices=PRECISIONS, help="fp32, unless exported otherwise")
    add.add_argument("--translate", action="store_true", help="take draft models of other tokens")
    add.add_argument("--force", action="store_true", help="replace models of the same names")
    remove = commands.add_parser("remove", help="remove a model")
    remove.add_argument("name")
    for command in (add, remove, commands.add_parser("list", help="what is there")):
        command.add_argument("--out", type=Path, default=library.MODELS, help="folder of models")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _end)
    try:
        return {"add": _add, "remove": _remove, "list": _list}[arguments.command](arguments)
    except (ModelError, OSError) as error:
        print(f"models: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("models: interrupted; nothing was changed", file=sys.stderr)
        return 130


def _end(number: int, _: object) -> NoReturn:
    """As an interrupt does: temporary folders go."""
    raise SystemExit(128 + number)


def _add(arguments: argparse.Namespace) -> int:
    added = library.add(
        arguments.source,
        arguments.drafter,
        arguments.out,
        name=arguments.name,
        precision=arguments.precision,
        translate=arguments.translate,
        force=arguments.force,
    )
    for manifest in (added.target, *added.drafters):
        line = (
            f"{arguments.out / manifest.name}: {manifest.architecture}, {manifest.precision}, "
            f"vocabulary {manifest.vocab_size}, context {manifest.max_context}"
        )
        share = added.agreement.get(manifest.name)
        print(line if share is None else f"{line}, agrees with {share:.0%} of a short greedy text")
    for remark in added.remarks:
        print(f"note: {remark}")
    print(
        f"\n{added.target.name} is listed in {arguments.out / FILE_NAME}: services that serve this "
        "folder load it now."
    )
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    manifest = library.remove(arguments.name, arguments.out)
    print(f"removed {manifest.name}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    entries = library.list_models(arguments.out)
    width = max((len(entry.manifest.name) for entry in entries), default=0)
    for entry in entries:
        m = entry.manifest
        alike = ", ".join(entry.shares_tokens_with) or "nobody"
        line = (
            f"{m.name:{width}}  {m.architecture}, {m.precision}, {entry.num_bytes / 1e6:.1f} MB, "
            f"vocabulary {m.vocab_size}, context {m.max_context}; same tokens as {alike}"
        )
        if entry.drafters is not None:
            line += f"; served, with {', '.join(entry.drafters) or 'no draft model'}"
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
