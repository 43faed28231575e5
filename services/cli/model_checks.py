"""The checks of `doctor` that look at folders of models: whole files, one tokenizer, a template."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from services.cli.findings import Finding, fail, ok, warn
from shared import served
from shared.errors import ModelError
from shared.lm.manifest import FILE_NAME, check_files

EXPORT = "export or fetch the model again"


def models(folder: Path) -> Iterator[Finding]:
    """Every model in a folder, or in folders of its own (versions): each file by its checksum."""
    manifests = sorted([*folder.glob(f"*/{FILE_NAME}"), *folder.glob(f"*/*/{FILE_NAME}")])
    if not manifests:
        yield fail("models", f"{folder} holds none", "--models names another folder")
    for manifest in manifests:
        yield _whole(manifest.parent)


def targets(folder: Path, drafters: Sequence[Path]) -> Iterator[Finding]:
    """Each target of a folder that is one or lists several, with its draft models: those that are
    listed, and `drafters`, as far as they are folders of models."""
    try:
        listed = served.read(folder)
    except ModelError as error:
        yield fail("targets", str(error), "python -m models add writes it")
        return
    # Those without a folder (ngram, suffix) draft from the target's own tokens.
    named = [drafter for drafter in drafters if (drafter / FILE_NAME).is_file()]
    for target in listed:
        own = [folder / name for name in target.drafters if name not in target.translated]
        yield from tokenizers(target.folder, list(dict.fromkeys([*own, *named])))
        yield template(target.folder)


def tokenizers(target: Path, drafters: Sequence[Path]) -> Iterator[Finding]:
    """Draft models speak the target's tokens, or draft nonsense."""
    own = _vocabulary(target)
    if own is None:
        yield fail("tokenizer", f"{target} has no readable tokenizer.json", EXPORT)
        return
    for drafter in drafters:
        other = _vocabulary(drafter)
        if other is None:
            yield warn(
                "tokenizer",
                f"{drafter} has no readable tokenizer.json to compare",
                "see that it was trained with the target's",
            )
        elif other == own:
            yield ok("tokenizer", f"{drafter.name} has the {len(own):,} tokens of {target.name}")
        else:
            yield fail(
                "tokenizer",
                f"{drafter.name} is not {target.name}'s: {_difference(own, other)}",
                "take it out of DRAFTER_MODELS",
            )


def template(target: Path) -> Finding:
    """Whether chats can be rendered."""
    settings = _json(target / "tokenizer_config.json") or {}
    if (target / "chat_template.jinja").is_file() or settings.get("chat_template"):
        return ok("template", f"{target.name} has a chat template")
    return warn(
        "template",
        f"{target.name} has no chat template, chats are refused",
        "put chat_template.jinja into its folder",
    )


def _whole(folder: Path) -> Finding:
    manifest = _json(folder / FILE_NAME) or {}
    files = manifest.get("files")
    if not isinstance(files, Mapping) or not files:
        return fail("models", f"{folder}: its manifest lists no files", EXPORT)
    if unsafe := [name for name in files if Path(str(name)).name != name]:
        return fail(
            "models", f"{folder}: its manifest lists {unsafe[0]!r}, no name of a file", EXPORT
        )
    try:
        check_files(folder, files)
    except ModelError as error:
        return fail("models", str(error), EXPORT)
    return ok("models", f"{folder}: {len(files)} files are as its manifest says")


def _vocabulary(folder: Path) -> dict[int, str] | None:
    """By token id."""
    content = _json(folder / "tokenizer.json")
    if content is None:
        return None
    model = content.get("model") or {}
    given = model.get("vocab") or {}
    pairs = given.items() if isinstance(given, dict) else ((e[0], i) for i, e in enumerate(given))
    found = {int(token): str(text) for text, token in pairs}
    return found | {int(t["id"]): str(t["content"]) for t in content.get("added_tokens") or ()}


def _difference(own: Mapping[int, str], other: Mapping[int, str]) -> str:
    token = min(t for t in own.keys() | other.keys() if own.get(t) != other.get(t))
    return f"token {token} is {own.get(token)!r} there and {other.get(token)!r} here"


def _json(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
