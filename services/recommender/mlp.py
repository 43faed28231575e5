"""The dense part of a ranking model: an ONNX graph from features to one score a row.

The only module of the recommender that knows onnxruntime.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from shared.errors import ModelError

FloatArray = npt.NDArray[np.float32]


class Mlp:
    """A loaded graph: float32 [rows, num_features] in, [rows, 1] out. Calls block."""

    def __init__(self, file: Path, num_features: int, num_threads: int) -> None:
        """Raises ModelError if the graph does not load or has another form."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        # Between passes the threads sleep: other services share these cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                file, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no common base
            raise ModelError(f"{file} is no graph that onnxruntime loads: {error}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if (
            len(inputs) != 1
            or len(outputs) != 1
            or inputs[0].type != "tensor(float)"
            or len(inputs[0].shape) != 2
            or inputs[0].shape[1] != num_features
        ):
            shapes = [(i.name, i.type, i.shape) for i in (*inputs, *outputs)]
            raise ModelError(
                f"{file} has {shapes}; needed is one float input [rows, {num_features}], as wide "
                "as the fields together, and one output [rows, 1]"
            )
        self._file = file
        self._input, self._output = inputs[0].name, outputs[0].name
        self.score(np.zeros((2, num_features), np.float32))

    def score(self, features: FloatArray) -> FloatArray:
        """Scores [rows]. Raises ModelError for an output that is no finite score a row."""
        try:
            (output,) = self._session.run([self._output], {self._input: features})
        except Exception as error:
            raise ModelError(f"{self._file} failed on {len(features)} rows: {error}") from error
        if output.shape != (len(features), 1):
            raise ModelError(f"{self._file} answered {output.shape} to {len(features)} rows")
        if not np.isfinite(output).all():
            raise ModelError(f"{self._file} answered a score that is not finite")
        scores: FloatArray = output[:, 0]
        return scores
