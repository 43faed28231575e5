"""The folder of language models that Quorum serves: adds to it, lists it, removes from it.

A target and its draft models are exported and checked beside the folder's models, and moved among
them together at the very end: whatever interrupts an addition, nothing of it stays.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from models import checks, shelf
from services.verifier.export import CARRIED, export
from shared import served
from shared.errors import ModelError
from shared.lm.decoder import load_decoder
from shared.lm.manifest import FILE_NAME, Manifest, checksum, load_manifest

MODELS = Path("models")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
WANTED = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model")
"""Of a hub's repository: no weights as pickles, and no code."""
PROBE_SLOTS = 4
TRANSLATE_HINT = (
    "With --translate, its tokens are mapped to the target's by their text; answers stay the same."
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model to add: a folder or a hub id, and the name that it is to have."""

    source: str
    name: str

    @classmethod
    def of(cls, source: str, name: str | None = None) -> Wanted:
        """`source` may be NAME=SOURCE. Raises ModelError for what is no name of a model."""
        given, is_named, rest = source.partition("=")
        if is_named and name is None:
            source, name = rest, given
        name = Path(source).resolve().name if name is None else name
        if not NAME.fullmatch(name):
            raise ModelError(f"{name!r} is no name for a model: letters, digits, and . _ - within")
        return cls(source, name)


@dataclass(frozen=True, slots=True)
class Added:
    """What has been added. `agreement` is the share of the target's greedy tokens that a draft
    model says as well, after a short prompt; `translated` are those with tokens of their own."""

    target: Manifest
    drafters: list[Manifest]
    agreement: dict[str, float]
    remarks: list[str]
    translated: list[str]


@dataclass(frozen=True, slots=True)
class Entry:
    """A language model of the folder. `shares_tokens_with` are the others with its tokenizer;
    `drafters` its own, if it is a target that is served."""

    manifest: Manifest
    num_bytes: int
    shares_tokens_with: list[str] = field(default_factory=list)
    drafters: tuple[str, ...] | None = None


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def add(
    source: str,
    drafters: Sequence[str] = (),
    out: Path = MODELS,
    *,
    name: str | None = None,
    precision: str | None = None,
    translate: bool = False,
    force: bool = False,
    say: Callable[[str], None] = to_stderr,
) -> Added:
    """Exports a target and draft models for it into `out`, checks them, and only then shows them.
    `precision` None: that of an exported folder, else fp32. `force` replaces models of the same
    names. Raises ModelError."""
    target = Wanted.of(source, name)
    wanted = [target, *(Wanted.of(drafter) for drafter in drafters)]
    _require_room(wanted, out, force)
    with shelf.staging(out) as staging:
        origins = [_origin(one, say) for one in wanted]
        for origin, drafter in zip(origins[1:], wanted[1:], strict=True):
            # Before the long work, where it can be seen already.
            if not translate and all(
                (o / checks.TOKENIZER).is_file() for o in (origins[0], origin)
            ):
                say(f"comparing the tokens of {drafter.name} with those of {target.name}")
                checks.require_same_tokens(origins[0], origin, TRANSLATE_HINT)
        folders = [
            _export(one, origin, out, staging, precision, say)
            for one, origin in zip(wanted, origins, strict=True)
        ]
        added = _check(folders, translate, say)
        fresh = [folder for folder in folders if folder.parent == staging]
        _require_tokens_kept(fresh, out)
        shelf.show(fresh, out)
        with shelf.listed(out) as targets:
            own = served.Target(
                out / target.name,
                drafters=tuple(drafter.name for drafter in added.drafters),
                translated=tuple(added.translated),
            )
            targets[target.name] = own
    return added


def remove(name: str, out: Path = MODELS) -> Manifest:
    """Removes a model, from what is served first. Raises ModelError where there is no such one."""
    folder = out / name
    if not NAME.fullmatch(name) or not folder.is_dir():
        known = ", ".join(entry.manifest.name for entry in list_models(out)) or "none"
        raise ModelError(f"there is no model {name!r} in {out}; there is {known}")
    manifest = load_manifest(folder, ())
    with shelf.listed(out) as targets:
        targets.pop(name, None)
        for target in list(targets.values()):
            targets[target.name] = replace(
                target,
                drafters=tuple(own for own in target.drafters if own != name),
                translated=tuple(own for own in target.translated if own != name),
            )
    with shelf.staging(out) as staging:
        folder.rename(staging / name)
    return manifest


def list_models(out: Path = MODELS) -> list[Entry]:
    """The language models of a folder, by name."""
    found = []
    for file in sorted(out.glob(f"*/{FILE_NAME}")):
        try:
            content = json.loads(file.read_text())
        except ValueError as error:
            raise ModelError(f"{file} is no JSON: {error}") from error
        if isinstance(content, dict) and "max_context" in content:
            size = sum(f.stat().st_size for f in file.parent.iterdir() if f.is_file())
            found.append(Entry(load_manifest(file.parent, ()), size))
    targets = {target.name: target.drafters for target in shelf.served_in(out)}
    digests = {e.manifest.name: e.manifest.files.get(checks.TOKENIZER) for e in found}

    def alike(name: str) -> list[str]:
        own = digests[name]
        return [other for other, digest in digests.items() if digest == own is not None != other]

    return [
        replace(
            e,
            shares_tokens_with=[n for n in alike(e.manifest.name) if n != e.manifest.name],
            drafters=targets.get(e.manifest.name),
        )
        for e in found
    ]


def _require_room(wanted: Sequence[Wanted], out: Path, force: bool) -> None:
    names = [one.name for one in wanted]
    listed = {target.name for target in shelf.served_in(out)}
    if len(listed | {names[0]}) > served.MAX_TARGETS:
        raise ModelError(f"{out} serves {served.MAX_TARGETS} targets, the most; remove one first")
    for one in wanted:
        folder = out / one.name
        if names.count(one.name) > 1:
            raise ModelError(f"two models are to be named {one.name}; give one as NAME=SOURCE")
        if not folder.exists() or _is_there(one, out):
            continue
        if not (folder / FILE_NAME).is_file():
            raise ModelError(f"{folder} exists and is no model; choose another name")
        if not force:
            raise ModelError(f"{folder} exists; --force replaces it, --name chooses another name")


def _is_there(one: Wanted, out: Path) -> bool:
    """Whether it is a model of the folder already, to be used as it is."""
    return (out / one.name).resolve() == Path(one.source).resolve()


def _origin(one: Wanted, say: Callable[[str], None]) -> Path:
    """The folder with the model's files; a hub's are brought here, as transformers does."""
    folder = Path(one.source)
    if folder.is_dir():
        config = folder / "config.json"
        if config.is_file() and "auto_map" in json.loads(config.read_text()):
            raise ModelError(f"{folder} brings code of its own (auto_map), which is not run")
        return folder
    if folder.exists() or not HUB_ID.fullmatch(one.source):
        raise ModelError(f"{one.source} is neither a folder nor a hub id")
    say(f"fetching {one.source} from the hub")
    try:
        from huggingface_hub import snapshot_download

        fetched = Path(snapshot_download(one.source, allow_patterns=list(WANTED)))
    except ImportError as error:
        raise ModelError(f"this needs the extra `export`: {error}") from error
    except Exception as error:  # the client's errors have no base of their own
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[:2]) or type(error).__name__
        raise ModelError(
            f"{one.source} is no folder here, and could not be fetched from the hub: {reason}"
        ) from error
    return _origin(Wanted(str(fetched), one.name), say)


def _export(
    one: Wanted,
    origin: Path,
    out: Path,
    staging: Path,
    precision: str | None,
    say: Callable[[str], None],
) -> Path:
    if _is_there(one, out):
        say(f"{one.name} is there already")
        load_manifest(origin)
        return out / one.name
    folder = staging / one.name
    is_exported = (origin / FILE_NAME).is_file()
    if is_exported and precision in (None, load_manifest(origin).precision):
        say(f"copying {one.name} from {origin}")
        _copy(origin, folder)
    else:
        say(f"exporting {one.name} from {one.source}")
        export(str(origin), folder, precision or "fp32")
    return folder


def _copy(origin: Path, folder: Path) -> None:
    """An exported folder under another name."""
    manifest = load_manifest(origin)
    folder.mkdir()
    for file in {*manifest.files, *CARRIED}:
        if Path(file).name != file:
            raise ModelError(f"{origin}: its manifest lists {file!r}, no name of a file")
        if (origin / file).is_file():
            shutil.copy(origin / file, folder / file)
    files = {file.name: checksum(file) for file in sorted(folder.iterdir())}
    replace(manifest, name=folder.name, files=files).save(folder)


def _check(folders: Sequence[Path], translate: bool, say: Callable[[str], None]) -> Added:
    """Everything that a service would stumble over later, and how well the models agree."""
    manifests = [load_manifest(folder) for folder in folders]
    target, *drafters = manifests
    for folder, manifest in zip(folders, manifests, strict=True):
        checks.require_tokens_within(folder, manifest)
    remarks = list(checks.remarks_on_target(folders[0], target))
    say(f"testing {target.name}")
    threads = os.cpu_count() or 1
    decoder = load_decoder(folders[0], max_slots=PROBE_SLOTS, num_threads=threads)
    remarks += checks.remarks_on_rows(decoder)
    prompt = checks.tokenizer(folders[0]).encode(checks.PROBE).ids
    text = checks.probe(decoder, prompt)
    agreement: dict[str, float] = {}
    translated: list[str] = []
    for folder, manifest in zip(folders[1:], drafters, strict=True):
        say(f"testing {manifest.name}")
        remarks += checks.remarks_on_drafter(manifest, target)
        own = load_decoder(folder, max_slots=1, num_threads=threads)
        try:
            checks.require_same_tokens(folders[0], folder, TRANSLATE_HINT)
        except ModelError:
            if not translate:
                raise
            translated.append(manifest.name)
            remarks.append(f"{manifest.name} has other tokens and is translated for")
            continue
        agreement[manifest.name] = checks.agreement(own, text, len(prompt))
    return Added(target, drafters, agreement, remarks, translated)


def _require_tokens_kept(folders: Sequence[Path], out: Path) -> None:
    """What waits for a target is written in its tokens: one that is served keeps them."""
    names = {target.name for target in shelf.served_in(out)}
    for folder in folders:
        if folder.name in names and (out / folder.name / checks.TOKENIZER).is_file():
            hint = f"{folder.name} is served; choose another name, or remove it first."
            checks.require_same_tokens(out / folder.name, folder, hint)
