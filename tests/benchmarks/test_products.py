"""The loop of products is made of what it says, and the widest is taken."""

from __future__ import annotations

import pytest
from llvmlite import binding

from benchmarks.products import KINDS, NUM_SUMS, kind_of, loop


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_is_sound_and_holds_nothing_but_products(kind: str) -> None:
    text = loop(kind)
    binding.parse_assembly(text).verify()
    assert text.count("vpdpbusd") == NUM_SUMS


def test_the_widest_instruction_is_taken() -> None:
    assert kind_of({"avx2", "avx_vnni", "avx512_vnni"}) == "avx512_vnni"
    assert kind_of({"avx2", "avx_vnni"}) == "avx_vnni"
    assert kind_of({"avx2"}) is None
