"""The gather of a program as machine code, made for it when a model is loaded (LLVM).

Every place, width and number of rows is a constant there: an item's addresses are worked out and
prefetched some items ahead, then its rows are copied by whole vectors into the outputs, widened on
the way. Calls hold no interpreter lock.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from llvmlite import binding

from services.recommender.machine_code import RING, write
from services.recommender.program import Program
from services.recommender.row_code import MIX
from shared.errors import ModelError
from shared.jit import compiled

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


def hashed_rows(ids: IntArray, num_rows: int) -> IntArray:
    """The rows that the kernel finds for ids by their hash."""
    mixed = ids.astype(np.uint64)
    for shift, factor in zip((30, 27), MIX, strict=True):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    upper = (mixed ^ (mixed >> np.uint64(31))) >> np.uint64(32)
    return ((upper * np.uint64(num_rows)) >> np.uint64(32)).astype(np.int64)


class Kernel:
    """A compiled gather over one arena, which it keeps alive."""

    def __init__(self, program: Program, arena: npt.NDArray[np.uint8], distance: int) -> None:
        """`arena` holds bytes. An item is prefetched `distance` items before it is copied, at
        most RING - 1. Raises ModelError for a program that would leave the arena."""
        for problem in program.problems(len(arena)):
            raise ModelError(f"the gather cannot be made: {problem}")
        self.program = program
        self._arena = arena
        self._base = arena.ctypes.data
        self._engine = compiled(
            write(program, min(max(distance, 0), RING - 1), binding.get_default_triple())
        )
        address = self._engine.get_function_address("gather")
        word, pointer = ctypes.c_int64, ctypes.c_void_p
        self._gather = ctypes.CFUNCTYPE(None, pointer, pointer, word, pointer, pointer)(address)
        kind = ctypes.CFUNCTYPE(None, *[pointer] * 3, word, *[pointer] * 3)
        self._pools = [
            kind(self._engine.get_function_address(f"pool{number}"))
            for number in range(len(program.bags))
        ]

    def gather(self, ids: int, num_items: int, outputs: int, missing: int) -> None:
        """All four by address, which the caller answers for: int64 ids [num_items, columns];
        an array of pointers to the outputs [num_items, width]; int64 [columns] to which ids that
        were outside of their tables are added."""
        self._gather(self._base, ids, num_items, outputs, missing)

    def pool(
        self,
        number: int,
        ids: IntArray,
        bounds: IntArray,
        targets: Sequence[FloatArray],
        missing: IntArray,
    ) -> None:
        """Bag `number` of the program: for each read of it, the sums or means of its vectors for
        ids[bounds[r]:bounds[r + 1]] into row r of a target [num_bags, dim], whose rows may be
        apart. An empty bag is zeros. Ids outside of the table are added to `missing` [1]."""
        num_bags = len(bounds) - 1
        assert all(t.strides[1] == 4 and len(t) >= num_bags for t in targets)
        places = np.array([target.ctypes.data for target in targets], np.int64)
        strides = np.array([target.strides[0] // 4 for target in targets], np.int64)
        arrays = (places, strides, missing)
        self._pools[number](
            *(self._base, ids.ctypes.data, bounds.ctypes.data, num_bags),
            *(array.ctypes.data for array in arrays),
        )
