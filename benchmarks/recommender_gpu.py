"""python -m benchmarks.recommender_gpu: the MicroRec paper's small model with its tables on a GPU.

onnxruntime with the whole model as one graph, its ids given from the host and its scores brought
back there: a Gather for each table, and a Gather for each width of row, whose tables lie one behind
the other. Beside it Quorum's engine on the same machine's CPU. All of them take turns; medians,
with minima and maxima. `--device cpu` runs all of it without a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.peers_recommender.tables import Tables, load_tables
from benchmarks.recommender_models import Prepared, prepare_small
from services.recommender.engine import Engine
from services.recommender.generate import MLP_FILE
from services.recommender.memory import map_arena
from services.recommender.query import Query

BATCHES = (1, 64, 256, 2048, 16384, 65536)
ROUNDS = 7
SECONDS = 0.15
"""Of each turn, and as long before it to warm up."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
OPTIONS: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}
"""Shorter multiplications would be faster, but not fp32."""

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Score = Callable[[IntArray], FloatArray]


def per_table(tables: Tables) -> tuple[list[onnx.NodeProto], dict[str, npt.NDArray[np.generic]]]:
    """A Gather for each table, from `ids` to `features`, and the constants."""
    names = [f"table{k}" for k in range(len(tables.arrays))]
    nodes = [helper.make_node("Split", ["ids"], [f"{n}_ids" for n in names], axis=1,
                              num_outputs=len(names))]  # fmt: skip
    nodes += [helper.make_node("Gather", [n, f"{n}_ids"], [f"{n}_row"]) for n in names]
    nodes += [helper.make_node("Squeeze", [f"{n}_row", "one"], [f"{n}_flat"]) for n in names]
    nodes.append(helper.make_node("Concat", [f"{n}_flat" for n in names], ["features"], axis=1))
    constants: dict[str, npt.NDArray[np.generic]] = {"one": np.array([1], np.int64)}
    return nodes, constants | dict(zip(names, tables.arrays, strict=True))


def per_width(tables: Tables) -> tuple[list[onnx.NodeProto], dict[str, npt.NDArray[np.generic]]]:
    """Likewise, a Gather for each width."""
    heights = [fused.tables.stop - fused.tables.start for fused in tables.fused]
    names = [f"width{k}" for k in range(len(heights))]
    nodes = [
        helper.make_node("Add", ["ids", "firsts"], ["places"]),
        helper.make_node("Split", ["places", "heights"], [f"{n}_ids" for n in names], axis=1),
    ]
    nodes += [helper.make_node("Gather", [n, f"{n}_ids"], [f"{n}_rows"]) for n in names]
    nodes += [helper.make_node("Flatten", [f"{n}_rows"], [f"{n}_flat"], axis=1) for n in names]
    nodes.append(helper.make_node("Concat", [f"{n}_flat" for n in names], ["features"], axis=1))
    constants: dict[str, npt.NDArray[np.generic]] = {
        "firsts": np.concatenate([fused.firsts for fused in tables.fused]),
        "heights": np.array(heights, np.int64),
    }
    return nodes, constants | {n: f.rows for n, f in zip(names, tables.fused, strict=True)}


def open_graph(
    nodes: list[onnx.NodeProto],
    constants: Mapping[str, npt.NDArray[np.generic]],
    prepared: Prepared,
    device: str,
) -> Score:
    """The graph with its dense part behind it, all of it on the device."""
    assert prepared.tables is not None
    dense = onnx.load(prepared.tables / MLP_FILE).graph
    (dense_input,) = dense.input
    for node in dense.node:
        node.input[:] = ["features" if i == dense_input.name else i for i in node.input]
    tables = {n: array for n, array in constants.items() if array.ndim == 2}
    small = [numpy_helper.from_array(a, n) for n, a in constants.items() if n not in tables]
    fields = len(prepared.layout.fields)
    graph = helper.make_graph(
        [*nodes, *dense.node],
        "recommender",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["rows", fields])],
        dense.output,
        [*small, *(_external(name, array) for name, array in tables.items()), *dense.initializer],
    )
    opsets = [helper.make_opsetid("", 18)]
    whole = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in tables.values()]
    options.add_external_initializers(list(tables), values)
    provider = PROVIDERS[device]
    session = onnxruntime.InferenceSession(whole, options, providers=[(provider, OPTIONS[device])])
    if provider not in session.get_providers():
        raise SystemExit("onnxruntime found no GPU that it can use")

    def score(ids: IntArray) -> FloatArray:
        found: FloatArray = session.run(None, {"ids": ids})[0]
        return found

    return score


def _external(name: str, array: npt.NDArray[np.generic]) -> TensorProto:
    """A table that is in memory already."""
    table = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape,
                        data_location=TensorProto.EXTERNAL)  # fmt: skip
    for key, value in (("location", "memory"), ("offset", 0), ("length", array.nbytes)):
        table.external_data.add(key=key, value=str(value))
    return table


def engines(prepared: Prepared) -> dict[str, Score]:
    """Quorum's, on the CPU, by precision of the dense part."""
    layout = prepared.layout
    arena = map_arena(prepared.served["fp32"] / layout.arena, layout.num_bytes, "copied")
    columns = slice(0, len(layout.fields))
    found: dict[str, Score] = {}
    for precision, folder in prepared.served.items():
        engine = Engine(layout, arena, folder / layout.dense, num_threads=2)
        found[f"Quorum, CPU, 2 threads, {precision}"] = _score(engine, columns)
    return found


def _score(engine: Engine, columns: slice) -> Score:
    return lambda ids: engine.score([Query(len(ids), [(columns, ids)])])[0][0]


def ns_per_item(score: Score, ids: IntArray, batch: int) -> float:
    """Median of the calls of a turn."""
    spent: list[float] = []
    place, begin = 0, time.perf_counter()
    while (now := time.perf_counter()) < begin + 2 * SECONDS or len(spent) < 3:
        own = np.ascontiguousarray(ids[place : place + batch])
        place = (place + batch) % (len(ids) - batch)
        started = time.perf_counter()
        score(own)
        if now > begin + SECONDS:
            spent.append(time.perf_counter() - started)
    return statistics.median(spent) * 1e9 / batch


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    device = parser.parse_args().device
    if device == "cuda":
        onnxruntime.preload_dlls()
    prepared = prepare_small()
    ids = np.array(prepared.read_ids())
    assert prepared.tables is not None
    tables = load_tables(prepared.tables)
    ways = {
        f"onnxruntime, {device}, by table": open_graph(*per_table(tables), prepared, device),
        f"onnxruntime, {device}, by width": open_graph(*per_width(tables), prepared, device),
        **engines(prepared),
    }  # fmt: skip
    expected = prepared.scores(ids[:2048])
    print(f"onnxruntime {onnxruntime.__version__}; a score differs from fp32 on the CPU by")
    for name, score in ways.items():
        print(f"- {name}: {np.abs(score(ids[:2048]) - expected).max():.2g}", flush=True)
    print("\nitems/s, median (least to most); us a call\n")
    print("| way | " + " | ".join(f"{batch} at a time" for batch in BATCHES) + " |")
    print("|---" * (1 + len(BATCHES)) + "|")
    samples: dict[tuple[str, int], list[float]] = {}
    for number in range(ROUNDS):
        for batch in BATCHES:
            for name, score in ways.items():
                first = (number * 7919) % (len(ids) // 2)
                found = ns_per_item(score, ids[first:], batch)
                samples.setdefault((name, batch), []).append(found)
    for name in ways:
        cells = [_cell(samples[name, batch], batch) for batch in BATCHES]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _cell(ns: list[float], batch: int) -> str:
    middle = statistics.median(ns)
    low, high = 1e9 / max(ns), 1e9 / min(ns)
    return f"{1e9 / middle:,.0f} ({low:,.0f} to {high:,.0f}); {middle * batch / 1e3:,.0f}"


if __name__ == "__main__":
    main()
