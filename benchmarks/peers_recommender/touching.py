"""What a machine could do at most: programs that touch the cache lines of a gather, and little
else.

Four bytes of each line are read, and written to a narrow row: the machine code is made as that
which serves, and that writes what it reads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from llvmlite import binding

from services.recommender.machine_code import LINE, RING, write
from services.recommender.program import Access, Program, Read, vector_bytes
from shared.jit import compiled

WORD = 4


def by_item(program: Program) -> Program:
    """All lines of an item, then those of the next, as the program has it."""
    return _of(program, program.accesses)


def by_table(program: Program) -> list[tuple[Program, list[int]]]:
    """One program for each access, so that a small table's lines are all read while they are in
    the first cache; with the columns of the ids that it takes."""
    found = []
    for access in program.accesses:
        columns = sorted(access.radices)
        reads = tuple(replace(read, column=columns.index(read.column)) for read in access.reads)
        own = replace(program, columns=tuple(program.columns[c] for c in columns))
        found.append((_of(own, [replace(access, reads=reads)]), columns))
    return found


def _of(program: Program, accesses: Sequence[Access]) -> Program:
    place = 0
    touched = []
    for access in accesses:
        reads = []
        for read in access.reads:
            for offset in _words(read, access):
                reads.append(Read(read.column, read.radix, offset, 1, 0, place))
                place += 1
        touched.append(replace(access, element="fp32", reads=tuple(reads)))
    return Program(program.columns, tuple(touched), (place,))


def _words(read: Read, access: Access) -> list[int]:
    """Where in a row to read, so that each line of the vector is touched."""
    last = read.offset + vector_bytes(read.dim, access.element) - WORD
    firsts = list(range(read.offset, last + 1, LINE)) or [max(last, 0)]
    is_aligned = access.base % LINE == 0 and read.offset % LINE == 0
    never_straddles = access.stride % LINE == 0 or LINE % access.stride == 0
    if is_aligned and never_straddles:
        return firsts
    return sorted({*firsts, max(last, 0)})


class ByTable:
    """The programs of `by_table` behind one another in one call, of machine code as a kernel's."""

    def __init__(self, program: Program, arena: npt.NDArray[np.uint8]) -> None:
        made = by_table(program)
        self.columns = [columns for _, columns in made]
        self._base = arena.ctypes.data
        self._engine = compiled(_linked([one for one, _ in made]))
        address = self._engine.get_function_address("all")
        word, pointer = ctypes.c_int64, ctypes.c_void_p
        self._gather = ctypes.CFUNCTYPE(None, pointer, pointer, word, pointer, pointer)(address)

    def gather(self, ids: int, num_items: int, outputs: int, missing: int) -> None:
        """As Kernel.gather, but that `ids` is an array of addresses, one for each program."""
        self._gather(self._base, ids, num_items, outputs, missing)


def _linked(programs: Sequence[Program]) -> str:
    kinds = "(i8*, i64*, i64, float**, i64*)"
    calls = "".join(
        f"""
  %at{k} = getelementptr i64*, i64** %ids, i64 {k}
  %own{k} = load i64*, i64** %at{k}
  call void @gather{k}(i8* %arena, i64* %own{k}, i64 %n, float** %outputs, i64* %missing)"""
        for k in range(len(programs))
    )
    declared = "\n".join(f"declare void @gather{k}{kinds}" for k in range(len(programs)))
    module = binding.parse_assembly(
        f"""{declared}
define void @all(i8* %arena, i64** %ids, i64 %n, float** %outputs, i64* %missing) {{{calls}
  ret void
}}"""
    )
    for number, program in enumerate(programs):
        text = write(program, RING - 1, binding.get_default_triple())
        renamed = text.replace('@"gather"', f'@"gather{number}"')
        module.link_in(binding.parse_assembly(renamed))
    return str(module)
