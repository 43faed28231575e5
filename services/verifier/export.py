"""python -m services.verifier.export SOURCE OUT [--precision fp32|fp16|half|int8|int4]

SOURCE is a local Hugging Face folder, a hub id, or a folder that this command wrote (to change
its precision), or one with a plain decoder-with-past `model.onnx` (kept as it is). OUT gets the
graph, the tokenizer and the manifest, which is written last.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from shared.errors import ModelError
from shared.lm.manifest import FILE_NAME, FORMAT, Manifest, checksum, load_manifest

GRAPH_FILE = "model.onnx"
CARRIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
)
COMPACT_WEIGHTS = 64_000_000
"""Models with at most so many get them in bytes, too (shared/lm/compact.py)."""
INLINE_BYTES = 1 << 30
"""Larger graphs keep their weights in a file beside them; protobuf ends at 2 GiB."""


def export(source: str, out: Path, precision: str = "fp32") -> Manifest:
    """Writes the folder `out`, which must not exist or be an earlier export. Raises ModelError."""
    if out.exists() and not (out / FILE_NAME).is_file():
        raise ModelError(f"{out} exists and is no export; choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        folder = Path(temporary) / out.name
        folder.mkdir()
        manifest = _write(source, folder, precision)
        manifest.save(folder)
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)
    return manifest


def _write(source: str, folder: Path, precision: str) -> Manifest:
    path = Path(source)
    stage = _Stage(5)
    if (path / FILE_NAME).is_file():
        stage("reading the exported model")
        manifest = replace(load_manifest(path), precision=precision)
        _convert(path, folder, precision, stage)
        return _finish(manifest, path, folder, stage)
    if (path / GRAPH_FILE).is_file():
        stage("keeping the plain graph")
        for file in path.glob("model.onnx*"):
            shutil.copy(file, folder)
        return _finish(_describe(path, "concat", "as is"), path, folder, stage)
    built = folder.parent / "built"
    stage("building the graph (onnxruntime-genai)")
    _build(source, built)
    manifest = _describe(built, "in-place", precision)
    stage("rewriting attention")
    _rewrite(built, manifest)
    _convert(built, folder, precision, stage)
    return _finish(manifest, built, folder, stage)


def _build(source: str, built: Path) -> None:
    """Runs the builder, in a process of its own, and leaves graph, tokenizer and config."""
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise ModelError(f"the export needs its extra, quorum[export]: {error}") from error
    is_local = Path(source).is_dir()
    if not is_local and Path(source).exists():
        raise ModelError(f"{source} is a file; a model folder or a hub id is wanted")
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    place = ["-i" if is_local else "-m", source, "-o", str(built), "-c", str(built.parent / "hub")]
    result = subprocess.run(
        [*builder, *place, "-p", "fp32", "-e", "cpu"], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        reason = (result.stderr.strip() or "no reason given").splitlines()[-1]
        raise ModelError(f"{source} could not be built: {reason}")
    AutoConfig.from_pretrained(source).save_pretrained(built)
    if is_local:
        for name in CARRIED:
            if (Path(source) / name).is_file():
                shutil.copy(Path(source) / name, built / name)


def _rewrite(built: Path, manifest: Manifest) -> None:
    import onnx

    from services.verifier.graph import rewrite

    model = onnx.load(built / GRAPH_FILE)
    rewrite(model, manifest.head_size, _windows(built, manifest.num_layers))
    for file in built.glob("model.onnx*"):
        file.unlink()
    _save(model, built)


def _convert(source: Path, folder: Path, precision: str, stage: _Stage) -> None:
    import onnx

    from services.verifier.compact import compact, num_weights
    from services.verifier.precision import convert

    stage(f"storing the weights as {precision}")
    stored = convert(onnx.load(source / GRAPH_FILE), precision)
    # Draft models have few weights; those of a larger one would be read from memory either way.
    if precision in ("fp32", "fp16") and num_weights(stored) <= COMPACT_WEIGHTS:
        small = compact(stored)
        if small is not None:
            small.save(folder)
    _save(stored, folder)


def _save(model: object, folder: Path) -> None:
    import onnx

    assert isinstance(model, onnx.ModelProto)
    # ByteSize() itself fails above 2 GiB.
    if sum(len(i.raw_data) for i in model.graph.initializer) < INLINE_BYTES:
        onnx.save(model, folder / GRAPH_FILE)
    else:
        onnx.save(
            model,
            folder / GRAPH_FILE,
            save_as_external_data=True,
            location=GRAPH_FILE + ".data",
        )


def _finish(manifest: Manifest, source: Path, folder: Path, stage: _Stage) -> Manifest:
    stage("checksums and manifest")
    for name in CARRIED:
        if (source / name).is_file():
            shutil.copy(source / name, folder / name)
    files = {file.name: checksum(file) for file in sorted(folder.iterdir())}
    return replace(manifest, name=folder.name, files=files)


def _describe(folder: Path, kind: str, precision: str) -> Manifest:
    """What the graph and the Hugging Face config say of the model."""
    import onnx

    graph = folder / GRAPH_FILE
    inputs = {i.name: i for i in onnx.load(graph, load_external_data=False).graph.input}
    caches = [name for name in inputs if name.startswith("past_key_values")]
    if not caches or "input_ids" not in inputs:
        raise ModelError(f"{graph} is no decoder with past_key_values.* inputs")
    dims = inputs[caches[0]].type.tensor_type.shape.dim
    config = _config(folder)
    num_heads = _integer(config, "num_attention_heads")
    head_size = config.get("head_dim") or _integer(config, "hidden_size") // num_heads
    generation = folder / "generation_config.json"
    if generation.is_file():
        config = {**config, **json.loads(generation.read_text())}
    return Manifest(
        format=FORMAT,
        name=folder.name,
        architecture=", ".join(map(str, _list(config.get("architectures")))),
        precision=precision,
        graph=kind,
        num_layers=len(caches) // 2,
        num_heads=num_heads,
        num_kv_heads=dims[1].dim_value or _integer(config, "num_key_value_heads"),
        head_size=dims[3].dim_value or int(str(head_size)),
        vocab_size=_integer(config, "vocab_size"),
        max_context=_integer(config, "max_position_embeddings"),
        eos_token_ids=[int(str(token)) for token in _list(config.get("eos_token_id"))],
        files={},
    )


def _windows(folder: Path, num_layers: int) -> list[int | None]:
    """The sliding window of each layer, from the Hugging Face config."""
    config = _config(folder)
    if config.get("sliding_window") is None or config.get("use_sliding_window") is False:
        return [None] * num_layers
    window = _integer(config, "sliding_window")
    kinds = _list(config.get("layer_types")) or ["sliding_attention"] * num_layers
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _config(folder: Path) -> dict[str, object]:
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(f"{folder} has no config.json")
    config: dict[str, object] = json.loads(file.read_text())
    return config


def _integer(config: dict[str, object], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int):
        raise ModelError(f"the model's config has {name}={value!r}; a number is needed")
    return value


def _list(value: object) -> list[object]:
    """A config value that may be absent, single or several."""
    return [] if value is None else value if isinstance(value, list) else [value]


def main(argv: list[str] | None = None) -> int:
    """The command. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="services.verifier.export", description=__doc__)
    parser.add_argument("source", help="Hugging Face folder, hub id, or exported folder")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument(
        "--precision", choices=["fp32", "fp16", "half", "int8", "int4"], default="fp32"
    )
    arguments = parser.parse_args(argv)
    try:
        manifest = export(arguments.source, arguments.out, arguments.precision)
    except ModelError as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    size = sum(f.stat().st_size for f in arguments.out.iterdir())
    print(
        f"{arguments.out}: {manifest.architecture}, {manifest.num_layers} layers, vocabulary "
        f"{manifest.vocab_size}, context {manifest.max_context}, {manifest.precision}, "
        f"{size / 1e6:.1f} MB"
    )
    return 0


class _Stage:
    """Shows how far the export is."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0

    def __call__(self, what: str) -> None:
        self._done += 1
        bar = "#" * self._done + "." * max(0, self._total - self._done)
        print(f"[{bar}] {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
