"""What a model is asked with, what it answers, and the plan that its tables are stored by: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.recommender.layout import Layout, Stored
from services.recommender.program import vector_bytes

Json = dict[str, object]


def describe(
    model: str, version: str, layout: Layout, outputs: Mapping[str, Sequence[int]]
) -> Json:
    """As JSON. `outputs` are the dense graph's, with their shapes behind the items."""
    return {
        "model": model,
        "version": version,
        "inputs": [
            {"name": tensor.name, "dtype": tensor.dtype, "shape": [-1, *tensor.shape]}
            for tensor in layout.inputs
        ],
        "outputs": [
            {"name": name, "dtype": "float32", "shape": [-1, *shape]}
            for name, shape in outputs.items()
        ],
        "plan": _plan(layout),
    }


def _plan(layout: Layout) -> Json:
    one_by_one = round(sum(stored.ns for stored in layout.stored), 3)
    return {
        "profile": layout.profile,
        "bytes": sum(stored.num_bytes for stored in layout.stored),
        "bytes_alone": sum(_bytes_alone(layout, stored) for stored in layout.stored),
        "ns_an_item": one_by_one if layout.ns is None else layout.ns,
        "stored": [_stored(layout, stored) for stored in layout.stored],
    }


def _stored(layout: Layout, stored: Stored) -> Json:
    return {
        "tables": [part.table for part in stored.parts],
        "num_rows": stored.num_rows,
        "dim": sum(layout.table(part.table).dim for part in stored.parts),
        "element": stored.element,
        "bytes": stored.num_bytes,
        "offset": stored.offset,
        "tier": stored.tier,
        "bank": stored.bank,
        "ns": stored.ns,
        "reason": stored.reason,
    }


def _bytes_alone(layout: Layout, stored: Stored) -> int:
    """Of its tables, each by itself in the same element."""
    tables = [layout.table(part.table) for part in stored.parts]
    return sum(table.num_rows * vector_bytes(table.dim, stored.element) for table in tables)
