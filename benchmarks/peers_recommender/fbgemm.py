"""FBGEMM's table batched embeddings on the CPU, one call for all tables, and PyTorch's MLP: the
module for inference, and the one for training."""

from __future__ import annotations

import fbgemm_gpu
import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
    IntNBitTableBatchedEmbeddingBagsCodegen,
)
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)

from benchmarks.peers_recommender.tables import map_tables
from benchmarks.peers_recommender.torch import Mlp
from benchmarks.peers_recommender.worker import FloatArray, IntArray, Setup, System, main


class _Batched:
    """A module and its kind of ids; bags of one id."""

    does = ("lookup", "score")

    def __init__(self, module: torch.nn.Module, ids: torch.dtype, mlp: Mlp) -> None:
        self._module = module
        self._ids = ids
        self._mlp = mlp

    def prepare(self, ids: IntArray) -> tuple[torch.Tensor, torch.Tensor]:
        """All ids table by table, and where each bag begins."""
        own = torch.from_numpy(np.ascontiguousarray(ids.T).ravel())
        return own.to(self._ids), torch.arange(ids.size + 1, dtype=self._ids)

    def lookup(self, ids: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return self._module(*ids)

    def score(self, ids: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return self._mlp(self._module(*ids))

    def array(self, found: torch.Tensor) -> FloatArray:
        return found.numpy()


def _for_inference(tables: list[FloatArray]) -> torch.nn.Module:
    module = IntNBitTableBatchedEmbeddingBagsCodegen(
        [("", *table.shape, SparseType.FP32, EmbeddingLocation.HOST) for table in tables],
        pooling_mode=PoolingMode.SUM,
        output_dtype=SparseType.FP32,
        device="cpu",
    )
    module.initialize_weights()
    for (own, _), table in zip(module.split_embedding_weights(), tables, strict=True):
        own.numpy()[:] = table.view(np.uint8)
    return module


def _for_training(tables: list[FloatArray]) -> torch.nn.Module:
    module = SplitTableBatchedEmbeddingBagsCodegen(
        [(*table.shape, EmbeddingLocation.HOST, ComputeDevice.CPU) for table in tables],
        pooling_mode=PoolingMode.SUM,
    )
    for own, table in zip(module.split_embedding_weights(), tables, strict=True):
        own.detach().numpy()[:] = table
    return module.requires_grad_(False)


class Fbgemm:
    """The engine."""

    version = f"fbgemm_gpu {fbgemm_gpu.__version__}, torch {torch.__version__}"

    def load(self, setup: Setup) -> dict[str, System]:
        torch.set_num_threads(setup.threads)
        torch.inference_mode().__enter__()
        tables, mlp = map_tables(setup.tables), Mlp(setup.read_weights())
        return {
            "fbgemm:inference": _Batched(_for_inference(tables), torch.int32, mlp),
            "fbgemm:training": _Batched(_for_training(tables), torch.int64, mlp),
        }


if __name__ == "__main__":
    main(Fbgemm())
