"""The dense part of a ranking model: an ONNX graph from rows of tables to scores.

One of the two modules of the recommender that know onnxruntime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from shared.errors import ModelError

FloatArray = npt.NDArray[np.float32]
MAX_BINDINGS = 64
"""Numbers of rows whose buffers stay bound."""
SMALL_ROWS = 16
"""Up to so many are computed on one thread."""
LONE_ROWS = 32
"""Computed alone and together at the start."""


def open_session(file: Path, num_threads: int) -> onnxruntime.InferenceSession:
    """Raises ModelError if the graph does not load."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    # Within a pass threads wait actively, as to wake them for each node takes longer than what they
    # gain; between passes they sleep, since other services share these cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        raise ModelError(f"{file} is no graph that onnxruntime loads: {error}") from error


class NotFiniteError(ModelError):
    """A score is no number, as large numbers among the inputs can bring about."""


class Dense:
    """A loaded graph, and the buffers that it reads and writes in place. Calls block."""

    def __init__(
        self,
        file: Path,
        buffers: Mapping[str, FloatArray],
        shapes: Mapping[str, Sequence[int]],
        num_threads: int,
    ) -> None:
        """`buffers` [max_rows, width], at least two rows, are the graph's inputs by name, each row
        of a shape. Raises ModelError if the graph has others."""
        self._file = file
        self._session = open_session(file, num_threads)
        # To wake other threads for a few rows takes longer than computing them.
        self._small = open_session(file, 1) if num_threads > 1 else self._session
        given = {i.name: (i.type, i.shape[1:]) for i in self._session.get_inputs()}
        wanted = {name: ("tensor(float)", list(shape)) for name, shape in shapes.items()}
        if not _agree(given, wanted):
            raise ModelError(
                f"{file} has inputs {_shown(given)}; needed are {_shown(wanted)}, as wide as what "
                "is looked up"
            )
        self._inputs = {name: (buffers[name], tuple(shapes[name])) for name in given}
        self.names = [output.name for output in self._session.get_outputs()]
        self._bindings: dict[int, tuple[onnxruntime.IOBinding, list[FloatArray]]] = {}
        self.outputs: list[FloatArray] = self._probe()
        self.min_rows = 1 if self._computes_lone_rows_alike() else 2
        """Of a run, for a row to have the same bits in any."""

    def run(self, num_rows: int) -> list[FloatArray]:
        """From the first rows of all inputs to those of all outputs, which the next run
        overwrites. Raises ModelError, NotFiniteError among them."""
        bound = self._bindings.get(num_rows)
        if bound is None:
            bound = self._bind(num_rows)
        binding, found = bound
        session = self._session if num_rows > SMALL_ROWS else self._small
        try:
            session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's errors have no common base
            raise ModelError(f"{self._file} failed on {num_rows} rows: {error}") from error
        for output in found:
            # What is not finite makes the sum so, too; that of large numbers may be as well.
            if not isfinite(np.add.reduce(output, None)) and not np.isfinite(output).all():
                raise NotFiniteError(f"{self._file} answered a score that is not finite")
        return found

    def require_one_score(self) -> None:
        """Raises ModelError if the first output is more than a number a row."""
        shape = self.outputs[0].shape[1:]
        if shape not in ((), (1,)):
            raise ModelError(f"{self._file} answers {list(shape)} a row; needed is one score")

    def _probe(self) -> list[FloatArray]:
        """Buffers for the outputs, whose shapes a run tells."""
        feed = {name: array[:2].reshape(2, *shape) for name, (array, shape) in self._inputs.items()}
        try:
            found = self._session.run(self.names, feed)
        except Exception as error:  # likewise
            raise ModelError(f"{self._file} failed on 2 rows: {error}") from error
        for name, output in zip(self.names, found, strict=True):
            if output.dtype != np.float32 or output.shape[:1] != (2,):
                raise ModelError(
                    f"{self._file} answered {name}, {output.dtype} {list(output.shape)}, to 2 rows"
                )
        max_rows = min(len(array) for array, _ in self._inputs.values())
        return [np.empty((max_rows, *output.shape[1:]), np.float32) for output in found]

    def _computes_lone_rows_alike(self) -> bool:
        """Whether random rows have the same bits alone and together. In int8 they have; in fp32
        onnxruntime has another kernel for one row."""
        rng = np.random.default_rng(0)
        for array, _ in self._inputs.values():
            array[:LONE_ROWS] = rng.standard_normal(array[:LONE_ROWS].shape, np.float32)
        num_rows = min(LONE_ROWS, *(len(array) for array, _ in self._inputs.values()))
        feeds = {n: a[:num_rows].reshape(-1, *s).copy() for n, (a, s) in self._inputs.items()}
        together = self._session.run(self.names, feeds)
        alike = True
        for row in range(num_rows):
            lone = self._session.run(self.names, {n: a[row : row + 1] for n, a in feeds.items()})
            alike &= all(
                a.tobytes() == b[row : row + 1].tobytes()
                for a, b in zip(lone, together, strict=True)
            )
        for array, _ in self._inputs.values():
            array[:LONE_ROWS] = 0
        return alike

    def _bind(self, num_rows: int) -> tuple[onnxruntime.IOBinding, list[FloatArray]]:
        if len(self._bindings) == MAX_BINDINGS:
            del self._bindings[next(iter(self._bindings))]
        session = self._session if num_rows > SMALL_ROWS else self._small
        binding = session.io_binding()
        place = ("cpu", 0, np.float32)
        for name, (array, shape) in self._inputs.items():
            binding.bind_input(name, *place, (num_rows, *shape), array.ctypes.data)
        for name, array in zip(self.names, self.outputs, strict=True):
            binding.bind_output(name, *place, (num_rows, *array.shape[1:]), array.ctypes.data)
        found = [output[:num_rows] for output in self.outputs]
        self._bindings[num_rows] = binding, found
        return binding, found


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
