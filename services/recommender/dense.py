"""The dense part of a ranking model: an ONNX graph from rows of tables to scores.

ONNX Runtime runs it. Of layers in int8 and nothing else, machine code that is made for them gives
the same bits in a half to a third of the time. One of the two modules of the recommender that know
onnxruntime.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from math import inf, isfinite
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt
import onnxruntime

from services.recommender.layers import Layers
from services.recommender.layers_kernel import BoundLayers, LayersKernel, fastest
from shared.errors import ModelError

logger = logging.getLogger(__name__)
FloatArray = npt.NDArray[np.float32]
MAX_BINDINGS = 64
"""Numbers of rows whose buffers stay bound."""
TRIED_ROWS = 32
"""Computed at the start, alone and together, by the graph and by machine code."""
NUM_TRIES = 5


def open_session(file: Path) -> onnxruntime.InferenceSession:
    """On the caller's thread alone. Raises ModelError if the graph does not load."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        raise ModelError(f"{file} is no graph that onnxruntime loads: {error}") from error


class NotFiniteError(ModelError):
    """A score is no number, as large numbers among the inputs can bring about."""


class Dense:
    """A loaded graph, which each thread runs on buffers of its own."""

    def __init__(
        self, file: Path, shapes: Mapping[str, Sequence[int]], layers: Layers | None = None
    ) -> None:
        """`shapes` are those of a row of each input, by name; `layers` what the graph is, if it is
        nothing else. Raises ModelError if the graph has other inputs."""
        self.file = file
        self.session = open_session(file)
        given = {i.name: (i.type, i.shape[1:]) for i in self.session.get_inputs()}
        wanted = {name: ("tensor(float)", list(shape)) for name, shape in shapes.items()}
        if not _agree(given, wanted):
            raise ModelError(
                f"{file} has inputs {_shown(given)}; needed are {_shown(wanted)}, as wide as what "
                "is looked up"
            )
        rng = np.random.default_rng(0)
        rows = {n: rng.standard_normal((TRIED_ROWS, *s), np.float32) for n, s in shapes.items()}
        together = self._try(rows)
        self.outputs = {name: array.shape[1:] for name, array in together.items()}
        """Shapes of a row by name."""
        self.kernel = self._compiled(layers, rows, together) if layers else None
        """None: the graph runs."""
        self.min_rows = 1 if self.kernel or self._computes_lone_rows_as(together, rows) else 2
        """Of a run, for a row to have the same bits in any."""

    def require_one_score(self) -> None:
        """Raises ModelError if the first output is more than a number a row."""
        shape = next(iter(self.outputs.values()))
        if shape not in ((), (1,)):
            raise ModelError(f"{self.file} answers {list(shape)} a row; needed is one score")

    def _try(self, rows: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """All outputs."""
        names = [output.name for output in self.session.get_outputs()]
        num_rows = len(next(iter(rows.values())))
        try:
            found = dict(zip(names, self.session.run(names, dict(rows)), strict=True))
        except Exception as error:  # likewise
            raise ModelError(f"{self.file} failed on {num_rows} rows: {error}") from error
        for name, output in found.items():
            if output.dtype != np.float32 or output.shape[:1] != (num_rows,):
                raise ModelError(
                    f"{self.file} answered {name}, {output.dtype} {list(output.shape)}, to "
                    f"{num_rows} rows"
                )
        return found

    def _compiled(
        self, layers: Layers, rows: Mapping[str, FloatArray], together: Mapping[str, FloatArray]
    ) -> LayersKernel | None:
        """None, with a word in the log, where machine code would not give the graph's bits, or
        not sooner."""
        [inputs, *others], [wanted, *more] = rows.values(), together.values()
        instructions = fastest(layers)
        if instructions is None:
            logger.info("%s: this CPU has no instructions for its bytes; its graph runs", self.file)
            return None
        kernel = LayersKernel(layers, instructions)
        fits = (inputs.shape[1:], wanted.shape[1:]) == ((kernel.num_inputs,), (kernel.num_outputs,))
        if others or more or not fits:
            logger.warning("%s: its layers are of other sizes; its graph runs", self.file)
            return None
        bound = BoundLayers(kernel, inputs)
        if bound.run(TRIED_ROWS)[0].tobytes() != wanted.tobytes():
            logger.warning("%s: its layers give other scores; its graph runs", self.file)
            return None
        by_graph, by_layers = _shortest(lambda: self._try(rows), lambda: bound.run(TRIED_ROWS))
        logger.debug(
            "%s: %d rows by %s take %.0f us, by the graph %.0f",
            *(self.file, TRIED_ROWS, instructions, by_layers * 1e6, by_graph * 1e6),
        )
        return kernel if by_layers < by_graph else None

    def _computes_lone_rows_as(
        self, together: Mapping[str, FloatArray], rows: Mapping[str, FloatArray]
    ) -> bool:
        """Whether random rows have the same bits alone. In int8 they have; in fp32 onnxruntime has
        another kernel for one row."""
        return all(
            output.tobytes() == together[name][row : row + 1].tobytes()
            for row in range(TRIED_ROWS)
            for name, output in self._try({n: a[row : row + 1] for n, a in rows.items()}).items()
        )


class Bound:
    """Buffers of one thread that are read and written in place. Calls block."""

    def __init__(self, dense: Dense, buffers: Mapping[str, FloatArray]) -> None:
        """`buffers` [max_rows, ...], at least two rows, are the graph's inputs by name."""
        self._file = dense.file
        self._run: Callable[[int], list[FloatArray]]
        if dense.kernel is None:
            self._run = _BoundGraph(dense, buffers).run
        else:
            [rows] = buffers.values()
            self._run = BoundLayers(dense.kernel, rows).run

    def run(self, num_rows: int) -> list[FloatArray]:
        """From the first rows of all inputs to those of all outputs, which the next run
        overwrites. Raises ModelError, NotFiniteError among them."""
        found = self._run(num_rows)
        for output in found:
            # What is not finite makes the sum so, too; that of large numbers may be as well.
            total = output.item() if output.size == 1 else np.add.reduce(output, None)
            if not isfinite(total) and not np.isfinite(output).all():
                raise NotFiniteError(f"{self._file} answered a score that is not finite")
        return found


class _BoundGraph:
    """By ONNX Runtime."""

    def __init__(self, dense: Dense, buffers: Mapping[str, FloatArray]) -> None:
        self._dense = dense
        self._inputs = buffers
        max_rows = min(map(len, buffers.values()))
        self._outputs = {
            name: np.empty((max_rows, *shape), np.float32) for name, shape in dense.outputs.items()
        }
        self._bindings: dict[int, tuple[onnxruntime.IOBinding, list[FloatArray]]] = {}

    def run(self, num_rows: int) -> list[FloatArray]:
        binding, found = self._bindings.get(num_rows) or self._bind(num_rows)
        try:
            self._dense.session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's errors have no common base
            raise ModelError(f"{self._dense.file} failed on {num_rows} rows: {error}") from error
        return found

    def _bind(self, num_rows: int) -> tuple[onnxruntime.IOBinding, list[FloatArray]]:
        if len(self._bindings) == MAX_BINDINGS:
            del self._bindings[next(iter(self._bindings))]
        binding = self._dense.session.io_binding()
        place = ("cpu", 0, np.float32)
        for name, array in self._inputs.items():
            rows = array[:num_rows]
            binding.bind_input(name, *place, rows.shape, rows.ctypes.data)
        found = [array[:num_rows] for array in self._outputs.values()]
        for name, rows in zip(self._outputs, found, strict=True):
            binding.bind_output(name, *place, rows.shape, rows.ctypes.data)
        self._bindings[num_rows] = binding, found
        return binding, found


def _shortest(*ways: Callable[[], object]) -> list[float]:
    """Seconds of each, of some tries by turns."""
    found = [inf] * len(ways)
    for _ in range(NUM_TRIES):
        for number, way in enumerate(ways):
            began = perf_counter()
            way()
            found[number] = min(found[number], perf_counter() - began)
    return found


Shapes = Mapping[str, tuple[str, list[int | str | None]]]


def _agree(given: Shapes, wanted: Mapping[str, tuple[str, list[int]]]) -> bool:
    """Whether names, types and shapes are the same, but for sizes that the graph leaves open."""
    if given.keys() != wanted.keys():
        return False
    for name, (kind, shape) in given.items():
        kind_wanted, shape_wanted = wanted[name]
        if kind != kind_wanted or len(shape) != len(shape_wanted):
            return False
        if any(isinstance(a, int) and a != b for a, b in zip(shape, shape_wanted, strict=True)):
            return False
    return True


def _shown(shapes: Mapping[str, tuple[str, Sequence[object]]]) -> str:
    return ", ".join(
        f"{name}: {kind} {['rows', *shape]}" for name, (kind, shape) in sorted(shapes.items())
    )
