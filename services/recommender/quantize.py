"""python -m services.recommender.quantize MODEL OUT [--samples FILE.npz|N]

Makes of a ranking model one like it whose dense part multiplies bytes: a scale for each column of
the weights, and one for what each layer reads, set by samples. These are N random requests, or that
of a file: the model's inputs as tensors. Other requests, or every second item of the file, show
what int8 changes. Values beyond those of the samples are cut off: random requests will do for
tables that were trained together, a file of likely ones is better.

Activations have eight bits, weights seven: where a CPU has no VNNI, onnxruntime adds two products
in 16 bits, and 2 x 255 x 64 fit. So all sums are exact, and scores the same bits on SSE4.1, AVX2
and VNNI; with weights of eight bits those of the MicroRec MLP moved by up to 0.046 from one to the
other, where their standard deviation is 0.29. On that MLP, of random weights, scores are off by
0.014 in the mean with seven bits and by 0.008 with eight; import-next's AUC is 0.9914 with both,
and in fp32.

Offline only: needs the onnx package.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import QuantType, quant_pre_process, quantize_static

from services.recommender.chain import read_chain
from services.recommender.comparison import Effect, compare
from services.recommender.dense import open_session
from services.recommender.folder import load_model
from services.recommender.layout import Layout
from services.recommender.manifest import save_manifest
from services.recommender.samples import Samples, draw_samples, read_samples
from shared.command_line import parser_of
from shared.errors import ModelError
from shared.lm.manifest import checksum

FloatArray = npt.NDArray[np.float32]
LAYERS = ("Gemm", "MatMul")
MIN_OPSET = 13
"""Before it, weights could not have a scale for each column."""
DEFAULT_REQUESTS = 32
MAX_REQUESTS = 256
MIN_ROWS = 4
"""Of a file: both halves are batches."""
LAYERS_FILE = "layers.npz"
_STEP = 1024


def quantize_dense(dense: Path, out: Path, samples: Mapping[str, FloatArray]) -> None:
    """Writes the graph with its layers (products with a constant matrix) in int8; what is between
    them stays in fp32. Raises ModelError for samples that are not the graph's inputs, and for a
    graph that has no such layers."""
    _check_samples(dense, samples)
    with TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            # It folds constants, and makes a Gemm of a MatMul and an Add.
            quant_pre_process(dense, prepared, skip_symbolic_shape=True)
            model = onnx.load(prepared)
            layers = _set_apart(dense, model)
            onnx.save(model, prepared)
            quantize_static(
                prepared,
                out,
                _Slices(samples),
                op_types_to_quantize=list(LAYERS),
                nodes_to_quantize=layers,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                # Only what a layer reads: scores are no multiples of anything.
                extra_options={"OpTypesToExcludeOutputQuantization": list(LAYERS)},
            )
        except ModelError:
            raise
        except Exception as error:  # onnxruntime's errors have no common base
            raise ModelError(f"{dense} cannot be quantized: {error}") from error


class _Slices:
    """Samples as onnxruntime's calibration asks for them."""

    def __init__(self, samples: Mapping[str, FloatArray]) -> None:
        num_rows = len(next(iter(samples.values())))
        self._slices = (
            {name: array[start : start + _STEP] for name, array in samples.items()}
            for start in range(0, num_rows, _STEP)
        )

    def get_next(self) -> Samples | None:
        return next(self._slices, None)


def _check_samples(dense: Path, samples: Mapping[str, FloatArray]) -> None:
    shapes = {i.name: i.shape[1:] for i in open_session(dense).get_inputs()}
    if samples.keys() != shapes.keys():
        raise ModelError(
            f"samples are of {', '.join(sorted(samples)) or 'nothing'}; {dense} has inputs "
            f"{', '.join(sorted(shapes))}"
        )
    for name, array in samples.items():
        fits = array.ndim == 1 + len(shapes[name]) and all(
            want == have or not isinstance(want, int)
            for want, have in zip(shapes[name], array.shape[1:], strict=True)
        )
        if array.dtype != np.float32 or not fits:
            raise ModelError(
                f"samples of {name} are {array.dtype} {list(array.shape)}; needed is float32 "
                f"{['rows', *shapes[name]]}"
            )
        if not np.isfinite(array).all():
            raise ModelError(f"samples of {name} hold a value that is not finite")
    if len(sizes := {len(array) for array in samples.values()}) > 1 or 0 in sizes:
        raise ModelError(
            f"samples have {' and '.join(map(str, sorted(sizes)))} rows; needed is the same "
            "number for each input, at least one"
        )


def _set_apart(dense: Path, model: onnx.ModelProto) -> list[str]:
    """Names of the layers. Each reads copies, which take no time (onnxruntime leaves them out):
    what is quantized would be so for all its readers, and for the outputs of the graph."""
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        raise ModelError(f"{dense} is of opset {opset}; needed is {MIN_OPSET} or a newer one")
    constants = {i.name for i in model.graph.initializer if len(i.dims) == 2}
    nodes: list[onnx.NodeProto] = []
    layers, copied = [], set()
    for number, node in enumerate(model.graph.node):
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            raise ModelError(f"{dense} is quantized already; quantize the model in fp32")
        if node.op_type in LAYERS and node.input[1] in constants:
            node.name = f"layer{number}"
            layers.append(node.name)
            source, copy = node.input[0], f"{node.input[0]}/of_layers"
            if copy not in copied:
                copied.add(copy)
                nodes.append(onnx.helper.make_node("Identity", [source], [copy]))
            node.input[0] = copy
        nodes.append(node)
    if not layers:
        raise ModelError(
            f"{dense} has no layer to quantize: no Gemm or MatMul with a constant matrix"
        )
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return layers


def quantize_model(folder: Path, out: Path, samples: Path | int, seed: int = 0) -> Effect:
    """Writes the folder `out`, which must be absent or empty. `samples`: how many random requests,
    or a file of one. Raises ModelError."""
    if out.exists() and any(out.iterdir()):
        raise ModelError(f"{out} is not empty; choose another folder")
    layout, own, others = _gather(folder, samples, seed)
    dense = folder / layout.dense
    whole = {name: np.concatenate([request[name] for request in own]) for name in own[0]}
    with TemporaryDirectory() as temporary:
        quantized = Path(temporary) / layout.dense
        quantize_dense(dense, quantized, whole)
        effect = compare(dense, quantized, others)
        _write_folder(folder, layout, quantized, out)
    return effect


def _gather(
    folder: Path, samples: Path | int, seed: int
) -> tuple[Layout, list[Samples], list[Samples]]:
    """Samples to set scales by, and others to show what int8 changes."""
    model = load_model(folder, num_threads=1)
    if isinstance(samples, int):
        if not 1 <= samples <= MAX_REQUESTS:
            raise ModelError(f"{samples} random requests; allowed are 1 to {MAX_REQUESTS}")
        drawn = draw_samples(model, folder, samples + max(4, samples // 4), seed)
        return model.layout, drawn[:samples], drawn[samples:]
    rows = read_samples(model, samples)
    num_rows = len(next(iter(rows.values()), ()))
    if num_rows < MIN_ROWS:
        raise ModelError(f"{samples} is of {num_rows} items; needed are at least {MIN_ROWS}")
    halves = [{name: array[first::2] for name, array in rows.items()} for first in (0, 1)]
    return model.layout, halves[:1], halves[1:]


def _write_folder(folder: Path, layout: Layout, quantized: Path, out: Path) -> None:
    """The manifest's files; what else lies in the folder (its card) tells of fp32."""
    out.mkdir(parents=True, exist_ok=True)
    for name in layout.files:
        if name != layout.dense:
            _link(folder / name, out / name)
    shutil.copyfile(quantized, out / layout.dense)
    written = [layout.dense]
    if (layers := read_chain(onnx.load(quantized))) is not None:
        layers.save(out / LAYERS_FILE)
        written.append(LAYERS_FILE)
        layout = replace(layout, layers=LAYERS_FILE)
    files = layout.files | {name: checksum(out / name) for name in written}
    save_manifest(replace(layout, files=files), out)


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(file, target)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    parser = parser_of("services.recommender.quantize", __doc__)
    parser.add_argument("model", type=Path, help="folder of a served model")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument(
        "--samples",
        default=str(DEFAULT_REQUESTS),
        metavar="FILE.npz|N",
        help=f"a request of tensors, or how many to draw (default {DEFAULT_REQUESTS})",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random requests")
    arguments = parser.parse_args(argv)
    given: str = arguments.samples
    samples = int(given) if given.isascii() and given.isdecimal() else Path(given)
    try:
        effect = quantize_model(arguments.model, arguments.out, samples, arguments.seed)
    except ModelError as error:
        print(f"quantize: {error}", file=sys.stderr)
        return 1
    print(
        f"{arguments.out}: of {effect.num_scores} scores of other samples, with a standard "
        f"deviation of {effect.spread:.4g}, int8 changes one by {effect.largest:.4g} at most, by "
        f"{effect.mean:.4g} in the mean; ranks agree by {effect.spearman:.4f} (Spearman), "
        f"{effect.kendall:.4f} (Kendall)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
