"""TensorFlow: embedding_lookup for each table and one concat, in a graph (tf.function), the weights
frozen; and the same graph compiled by XLA."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from benchmarks.peers_recommender.tables import load_tables
from benchmarks.peers_recommender.worker import FloatArray, IntArray, Setup, System, main


class _Graph:
    """One concrete function for lookups, one for scores; ids come as [tables, items]."""

    does = ("lookup", "score")

    def __init__(
        self,
        tables: Sequence[tf.Tensor],
        weights: Sequence[tuple[tf.Tensor, tf.Tensor]],
        is_compiled: bool,
    ) -> None:
        self._tables = tables
        self._weights = weights
        self._is_compiled = is_compiled
        self.lookup = self._made(self._lookup)
        self.score = self._made(self._score)

    def _made(self, function: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
        spec = tf.TensorSpec([len(self._tables), None], tf.int64)
        whole = tf.function(function, jit_compile=self._is_compiled)
        return whole.get_concrete_function(spec)

    def prepare(self, ids: IntArray) -> tf.Tensor:
        return tf.constant(np.ascontiguousarray(ids.T))

    def _lookup(self, ids: tf.Tensor) -> tf.Tensor:
        own = tf.unstack(ids, num=len(self._tables))
        rows = [tf.nn.embedding_lookup(t, i) for t, i in zip(self._tables, own, strict=True)]
        return tf.concat(rows, 1)

    def _score(self, ids: tf.Tensor) -> tf.Tensor:
        values = self._lookup(ids)
        *hidden, (last_weight, last_bias) = self._weights
        for weight, bias in hidden:
            values = tf.nn.relu(tf.nn.bias_add(tf.matmul(values, weight), bias))
        return tf.nn.bias_add(tf.matmul(values, last_weight), last_bias)

    def array(self, found: tf.Tensor) -> FloatArray:
        return found.numpy()


class TensorFlow:
    """The engine."""

    version = f"tensorflow {tf.__version__}"

    def load(self, setup: Setup) -> dict[str, System]:
        tf.config.threading.set_intra_op_parallelism_threads(setup.threads)
        # With as many here, too, the graph took up to twice as long: its nodes are small.
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tables = [
            # Tensors of the memory that is there: tf.constant would copy it.
            tf.experimental.dlpack.from_dlpack(array.__dlpack__())
            for array in load_tables(setup.tables).arrays
        ]
        weights = [(tf.constant(w), tf.constant(b)) for w, b in setup.read_weights()]
        return {
            "tensorflow:graph": _Graph(tables, weights, is_compiled=False),
            "tensorflow:xla": _Graph(tables, weights, is_compiled=True),
        }


if __name__ == "__main__":
    main(TensorFlow())
