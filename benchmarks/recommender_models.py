"""The MicroRec paper's models for benchmarks.recommender: made once, kept under build/."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.generation import ROOT
from services.recommender.dense import open_session
from services.recommender.generate import MLP_FILE, generate
from services.recommender.layout import Layout
from services.recommender.manifest import FILE_NAME, load_manifest
from services.recommender.planning import Limits
from services.recommender.profile_file import DEFAULT, read_profile
from services.recommender.program import Element, vector_bytes
from services.recommender.quantize import DEFAULT_REQUESTS, quantize_model
from services.recommender.restructure import read_source, restructure
from services.recommender.source import DESCRIPTION
from services.recommender.wiring import wire

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

WORK = ROOT / "build" / "benchmarks" / "recommender"
SERVICES = ROOT / "services" / "recommender"
PLANNED_BY = (
    *(SERVICES / f"{name}.py" for name in ("layout", "planning", "program", "restructure")),
    *(file for file in (SERVICES / "planner").iterdir() if file.is_file()),
)
"""A model that is older than one of these is made again."""
NUM_IDS = {"small": 1 << 18, "large": 1 << 16}
"""Items of random ids: more than a round asks for, so that it meets each at most once."""
SPARE_BYTES = 4 << 30
"""That are to stay free on the disk."""
LARGE_BYTES = {"source": 15_200_000_000, "arena": 7_600_000_000}


@dataclass(frozen=True, slots=True)
class Prepared:
    """Files of one model."""

    name: str
    served: dict[str, Path]
    """Folders that Quorum serves, by the precision of the dense part."""
    layout: Layout
    """Of both."""
    ids: Path
    tables: Path | None
    """As the model was trained; gone of the large one."""

    @property
    def graphs(self) -> Path:
        """Whole models for peers; of a model whose tables are there."""
        return self.ids.parent / "graphs"

    @property
    def weights(self) -> Path:
        return self.ids.parent / "weights.npz"

    def read_ids(self) -> IntArray:
        ids: IntArray = np.load(self.ids, mmap_mode="r")
        return ids

    def features(self, ids: IntArray) -> FloatArray:
        """What lookups have to find, by numpy; of the large model, in the arena."""
        if self.tables is None:
            return _in_arena(self.served["fp32"], self.layout, ids)
        tables = [np.load(file, mmap_mode="r") for file in _table_files(self.tables)]
        rows = [table[own] for table, own in zip(tables, ids.T, strict=True)]
        return np.concatenate(rows, axis=1)

    def scores(self, ids: IntArray) -> FloatArray:
        """What scores have to be, by ONNX Runtime in fp32."""
        session = open_session(self.served["fp32"] / self.layout.dense)
        found: FloatArray = session.run(None, {self.layout.outputs[0].name: self.features(ids)})[0]
        return found


def prepare_small() -> Prepared:
    """The small model, its tables in fp32, with all that peers need."""
    folder = WORK / "small"
    tables = folder / "tables"
    if not (tables / DESCRIPTION).is_file():
        _again(tables)
        generate("small", tables, 1.0, 0, _Progress("generating"))
    served = _served(folder, "small", tables, "fp32")
    layout = load_manifest(served["fp32"])
    prepared = Prepared("small", served, layout, write_ids(folder, "small", layout), tables)
    if _is_older(prepared.weights, [tables / MLP_FILE]):
        write_for_peers(prepared)
    return prepared


def write_for_peers(prepared: Prepared) -> None:
    """The whole model as graphs, and its dense part as arrays."""
    assert prepared.tables is not None
    prepared.graphs.mkdir(exist_ok=True)
    for name in ("lookup", "score"):
        (prepared.graphs / f"{name}.onnx").write_bytes(_whole_graph(prepared.tables, name))
    constants = onnx.load(prepared.tables / MLP_FILE).graph.initializer
    np.savez(prepared.weights, **{c.name: numpy_helper.to_array(c) for c in constants})


def prepare_large() -> Prepared:
    """The large model, its tables in fp16; what it is made of is deleted."""
    folder = WORK / "large"
    tables, arena = folder / "tables", folder / "microrec-large" / FILE_NAME
    if _is_older(arena, PLANNED_BY):
        _again(folder / "microrec-large")
        needed = sum(LARGE_BYTES.values()) + SPARE_BYTES
        WORK.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(WORK).free) < needed:
            sys.exit(
                f"the large model takes {needed / 1e9:.0f} GB of disk; {free / 1e9:.0f} are free"
            )
        _again(tables)
        generate("large", tables, 1.0, 0, _Progress("generating"))
    try:
        served = _served(folder, "large", tables, "fp16")
    finally:
        shutil.rmtree(tables, ignore_errors=True)
    layout = load_manifest(served["fp32"])
    return Prepared("large", served, layout, write_ids(folder, "large", layout), None)


def _served(folder: Path, size: str, tables: Path, element: Element) -> dict[str, Path]:
    fp32, int8 = folder / f"microrec-{size}", folder / f"microrec-{size}-int8"
    if _is_older(fp32 / FILE_NAME, PLANNED_BY):
        _again(fp32)
        source, profile = read_source(tables), read_profile(DEFAULT)
        restructure(source, fp32, profile, Limits(element), _Progress("restructuring"))
    if _is_older(int8 / FILE_NAME, [fp32 / FILE_NAME, SERVICES / "quantize.py"]):
        _again(int8)
        print(f"quantizing {fp32.name} ...", flush=True)
        effect = quantize_model(fp32, int8, DEFAULT_REQUESTS)
        print(f"int8 changes a score by {effect.largest:.4f} at most", flush=True)
    return {"fp32": fp32, "int8": int8}


def write_ids(folder: Path, size: str, layout: Layout) -> Path:
    """Uniformly random ids [items, fields], if they are not there."""
    file = folder / "ids.npy"
    shape = (NUM_IDS[size], len(layout.fields))
    if not file.is_file() or np.load(file, mmap_mode="r").shape != shape:
        rng = np.random.default_rng(1)
        columns = [rng.integers(0, field.num_rows, shape[0]) for field in layout.fields]
        np.save(file, np.stack(columns, axis=1))
    return file


def _in_arena(folder: Path, layout: Layout, ids: IntArray) -> FloatArray:
    """Rows of tables that are stored alone, joined or multiplied, in fp32 or fp16."""
    program = wire(layout).program
    arena = np.memmap(folder / layout.arena, np.uint8, "r")
    found = np.zeros((len(ids), program.widths[0]), np.float32)
    for access in program.accesses:
        kind = np.float32 if access.element == "fp32" else np.float16
        starts = access.base + access.stride * sum(
            ids[:, column] * radix for column, radix in access.radices.items()
        )
        for read in access.reads:
            size = vector_bytes(read.dim, access.element)
            raw = arena[starts[:, None] + read.offset + np.arange(size)]
            found[:, read.place : read.place + read.dim] = raw.view(kind)
    return found


def _whole_graph(tables: Path, name: str) -> bytes:
    """`lookup`: a Gather for each table and a Concat; `score`: and the dense part. Tables are
    those of the .npy files."""
    files = _table_files(tables)
    dense = onnx.load(tables / MLP_FILE).graph
    rows = [f"rows{k}" for k in range(len(files))]
    nodes = [
        helper.make_node("Gather", [f"table{k}", f"ids{k}"], [row]) for k, row in enumerate(rows)
    ]
    nodes.append(helper.make_node("Concat", rows, [dense.input[0].name], axis=1))
    constants = [_external(f"table{k}", file) for k, file in enumerate(files)]
    inputs = [
        helper.make_tensor_value_info(f"ids{k}", TensorProto.INT64, ["rows"])
        for k in range(len(files))
    ]
    if name == "score":
        nodes += dense.node
        constants += dense.initializer
    outputs = dense.output if name == "score" else dense.input
    graph = helper.make_graph(nodes, name, inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 17)]
    whole: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return whole


def _external(name: str, file: Path) -> TensorProto:
    """A table as the values of its .npy file."""
    array: np.memmap[Any, Any] = np.load(file, mmap_mode="r")
    table = TensorProto(
        name=name,
        data_type=TensorProto.FLOAT,
        dims=array.shape,
        data_location=TensorProto.EXTERNAL,
    )
    place = {"location": f"../tables/{file.name}", "offset": array.offset, "length": array.nbytes}
    for key, value in place.items():
        table.external_data.add(key=key, value=str(value))
    return table


def _table_files(tables: Path) -> list[Path]:
    return sorted(tables.glob("*.npy"))


def _again(folder: Path) -> None:
    """Whatever is there is of an older or an unfinished run."""
    shutil.rmtree(folder, ignore_errors=True)


def _is_older(made: Path, sources: Iterable[Path]) -> bool:
    """Whether a file is to be made again, or for the first time."""
    newest = max((s.stat().st_mtime for s in sources if s.exists()), default=0.0)
    return not made.is_file() or made.stat().st_mtime < newest


class _Progress:
    """Says every tenth."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._said = -1

    def __call__(self, share: float, _: str) -> None:
        if (tenth := int(share * 10)) > self._said:
            self._said = tenth
            print(f"{self._what}: {tenth * 10} %", flush=True)
