"""API keys: a file of their names, hashes, rights and limits.

    python -m services.gateway.keys FILE add NAME [--requests-per-minute N] [...]
    python -m services.gateway.keys FILE list
    python -m services.gateway.keys FILE revoke NAME

`add` prints the key, once: the file holds its SHA-256 alone, which is enough for a secret of 256
random bits. Whoever serves with GATEWAY_KEYS=FILE follows changes of it.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import logging
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, TypeAdapter, ValidationError

from services.gateway.limits import Limits
from shared.command_line import parser_of
from shared.errors import ConfigError

logger = logging.getLogger(__name__)

Right = Literal["generate", "recommend", "write"]
"""`write`: new rows of a ranking model's tables."""
RIGHTS: tuple[Right, ...] = get_args(Right)
PREFIX = "qk-"
SECRET_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")

Share = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class Key:
    """What one client is known by."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    name: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    rights: tuple[Right, ...] = ("generate", "recommend")
    requests_per_minute: Share | None = None
    tokens_per_minute: Share | None = None
    max_in_flight: Share | None = None

    @property
    def limits(self) -> Limits:
        return Limits(self.requests_per_minute, self.tokens_per_minute, self.max_in_flight)


@dataclass(frozen=True, slots=True)
class _File:
    __pydantic_config__: ClassVar = {"extra": "forbid"}
    keys: list[Key] = field(default_factory=list)


_FILE = TypeAdapter(_File)


def read_keys(file: Path) -> list[Key]:
    """Raises ConfigError naming what is wrong."""
    try:
        keys = _FILE.validate_json(file.read_bytes()).keys
    except OSError as error:
        raise ConfigError(f"the keys in {file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(f"the keys in {file}: {place}: {first['msg']}") from error
    names = [key.name for key in keys]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"the keys in {file}: {', '.join(twice)} is there twice")
    return keys


def write_keys(file: Path, keys: Sequence[Key]) -> None:
    """At once, so that no reader sees a half; for its owner's eyes alone."""
    handle, path = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    with os.fdopen(handle, "wb") as content:
        content.write(_FILE.dump_json(_File(list(keys)), indent=2, exclude_none=True) + b"\n")
    Path(path).replace(file)


def hash_of(secret: str) -> str:
    """Of whatever a header may hold."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class Keys:
    """Those of a file, read again whenever it changes."""

    def __init__(self, file: Path) -> None:
        """Raises ConfigError."""
        self._file = file
        self._stamp = self._stamped()
        self._keys = read_keys(file)

    def find(self, secret: str) -> Key | None:
        """The key whose secret this is. All of them are compared, each in constant time."""
        self._follow()
        given = hash_of(secret)
        found: Key | None = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, given):
                found = key
        return found

    def _follow(self) -> None:
        stamp = self._stamped()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = read_keys(self._file)
        except ConfigError as error:
            logger.error("the keys stay as they were: %s", error)
        else:
            logger.info("%d keys read again", len(self._keys))

    def _stamped(self) -> tuple[int, int, int]:
        """Of a file that is there, when and what it became."""
        try:
            status = self._file.stat()
        except OSError:
            return 0, 0, 0
        return status.st_mtime_ns, status.st_ino, status.st_size


def main(argv: list[str] | None = None) -> int:
    """The command. Returns its exit code."""
    parser = parser_of("services.gateway.keys", __doc__)
    parser.add_argument("file", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="make a key and print it")
    add.add_argument("name")
    add.add_argument("--rights", nargs="+", choices=RIGHTS, default=["generate", "recommend"])
    for limit in ("--requests-per-minute", "--tokens-per-minute", "--max-in-flight"):
        add.add_argument(limit, type=int)
    commands.add_parser("list", help="all names, rights and limits")
    commands.add_parser("revoke", help="refuse a key from now on").add_argument("name")
    arguments = parser.parse_args(argv)
    try:
        keys = read_keys(arguments.file) if arguments.file.exists() else []
        _COMMANDS[arguments.command](arguments, keys)
    except ConfigError as error:
        print(f"keys: {error}", file=sys.stderr)
        return 1
    return 0


def _add(arguments: argparse.Namespace, keys: Sequence[Key]) -> None:
    if not _NAME.fullmatch(arguments.name):
        raise ConfigError(f"{arguments.name!r} is no name: up to 64 letters, digits and _.@-")
    if arguments.name in {key.name for key in keys}:
        raise ConfigError(f"there is a key {arguments.name!r} already; revoke it first")
    limits = (arguments.requests_per_minute, arguments.tokens_per_minute, arguments.max_in_flight)
    if any(limit is not None and limit < 1 for limit in limits):
        raise ConfigError("a limit is at least 1; leave it out for none")
    secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    new = Key(arguments.name, hash_of(secret), tuple(arguments.rights), *limits)
    write_keys(arguments.file, [*keys, new])
    print(secret)


def _list(_: argparse.Namespace, keys: Sequence[Key]) -> None:
    for key in keys:
        shares = {
            "requests/min": key.requests_per_minute,
            "tokens/min": key.tokens_per_minute,
            "in flight": key.max_in_flight,
        }
        shown = ", ".join(f"{share} {what}" for what, share in shares.items() if share is not None)
        print(f"{key.name:24} {', '.join(key.rights):28} {shown or 'no limits'}")


def _revoke(arguments: argparse.Namespace, keys: Sequence[Key]) -> None:
    left = [key for key in keys if key.name != arguments.name]
    if len(left) == len(keys):
        known = ", ".join(key.name for key in keys) or "none"
        raise ConfigError(f"there is no key {arguments.name!r}; there are {known}")
    write_keys(arguments.file, left)


_COMMANDS = {"add": _add, "list": _list, "revoke": _revoke}

if __name__ == "__main__":
    sys.exit(main())
