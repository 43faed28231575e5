"""A request of tensors, as ids: names, types and shapes are checked here, once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from services.recommender.engine import Bags, Query
from services.recommender.ids import IdGraph
from services.recommender.layout import Field, Layout, Tensor
from services.recommender.wiring import Wiring, is_bag
from shared.errors import InvalidRequestError

Array = npt.NDArray[np.int64] | npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class Tensors:
    """Reads what `Layout.inputs` says: rows of ids, of which one holds for all items where others
    have many (a user with candidates); a negative id in a bag is none."""

    def __init__(self, layout: Layout, wiring: Wiring, graph: IdGraph | None) -> None:
        self._layout = layout
        self._columns = wiring.columns
        self._bags = wiring.bags
        self._graph = graph
        self._inputs = {tensor.name: tensor for tensor in layout.inputs}

    def read(self, inputs: Mapping[str, Array], max_items: int) -> Query:
        """Raises InvalidRequestError naming the input that is missing, unknown, of another type or
        shape, or holds an id that its field refuses."""
        for name in inputs:
            if name not in self._inputs:
                known = ", ".join(self._inputs)
                raise InvalidRequestError(f"no input {name!r}; this model has {known}", name)
        for name in self._inputs:
            if name not in inputs:
                raise InvalidRequestError(f"input {name!r} is missing", name)
            _check(self._inputs[name], inputs[name])
        num_items = self._num_items(inputs)
        if num_items > max_items:
            raise InvalidRequestError(f"{num_items} items; at most {max_items} are scored at once")
        if self._graph is None:
            ids = {n: a.astype(np.int64, copy=False) for n, a in inputs.items() if self._is_id(n)}
        else:
            whole = {n: self._repeated(n, array, num_items) for n, array in inputs.items()}
            ids = self._graph.run(whole)
        floats = [inputs[t.name] for t in self._layout.inputs if t.dtype == "float32"]
        query = Query(
            num_items,
            [
                (self._columns[field.name], self._block(field, ids))
                for field in self._layout.fields
                if field.name in self._columns
            ],
            self._read_bags(ids),
            [values.astype(np.float32, copy=False) for values in floats],
        )
        _check_rows(query)
        return query

    def _num_items(self, inputs: Mapping[str, Array]) -> int:
        """Inputs have one row, which holds for all items, or the same number of them."""
        rows = {n: len(array) for n, array in inputs.items() if self._inputs[n].is_per_item}
        if len(set(rows.values()) - {1}) > 1:
            raise InvalidRequestError(
                "inputs have different numbers of rows: "
                + ", ".join(f"{name} {number}" for name, number in rows.items())
                + "; all have one, or the same number of them"
            )
        return max(rows.values(), default=1)

    def _is_id(self, name: str) -> bool:
        return self._inputs[name].dtype == "int64"

    def _repeated(self, name: str, array: Array, num_items: int) -> npt.NDArray[np.generic]:
        if not self._inputs[name].is_per_item or len(array) == num_items:
            return array
        return np.repeat(array, num_items, axis=0)

    def _block(self, field: Field, ids: Mapping[str, IntArray]) -> IntArray:
        array = ids[field.ids or field.name].reshape(-1, field.length or 1)
        _refuse(field, array)
        return array

    def _read_bags(self, ids: Mapping[str, IntArray]) -> list[Bags]:
        found: dict[str, Bags] = {}
        for field in self._layout.fields:
            if is_bag(self._layout, field):
                array = ids[field.ids or field.name]
                found[field.name] = (
                    _bags(array) if field.bounds is None else _bounded(array, ids[field.bounds])
                )
                _refuse(field, found[field.name].ids)
        return [found[name] for name in self._bags]


def _check_rows(query: Query) -> None:
    sizes = {len(ids) for _, ids in query.blocks} | {len(bags.bounds) - 1 for bags in query.bags}
    sizes |= {len(values) for values in query.floats}
    if wrong := sizes - {1, query.num_items}:
        raise InvalidRequestError(
            f"some inputs are for {min(wrong)} items, others for {query.num_items}"
        )


def _check(tensor: Tensor, array: Array) -> None:
    shape = tuple(tensor.shape)
    rest = array.shape[1:]
    # A column of ids may come as [n] or as [n, 1].
    if shape == () and rest == (1,):
        rest = ()
    if array.ndim == 0 or len(array) == 0:
        raise InvalidRequestError(f"input {tensor.name!r} has no rows", tensor.name)
    if len(rest) != len(shape) or any(
        have != want for have, want in zip(rest, shape, strict=True) if want >= 0
    ):
        raise InvalidRequestError(
            f"input {tensor.name!r} is {list(array.shape)}; needed is {['rows', *shape]}",
            tensor.name,
        )
    is_whole = array.dtype.kind in "iu"
    if is_whole != (tensor.dtype == "int64") or array.dtype.kind not in "iuf":
        raise InvalidRequestError(
            f"input {tensor.name!r} holds {array.dtype}; needed is {tensor.dtype}", tensor.name
        )


def _bags(array: IntArray) -> Bags:
    """Each row is a bag, without its negative ids."""
    rows = array.reshape(len(array), -1)
    is_there = rows >= 0
    bounds = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(is_there.sum(axis=1), out=bounds[1:])
    return Bags(rows[is_there], bounds)


def _bounded(ids: IntArray, bounds: IntArray) -> Bags:
    bags = Bags(np.ascontiguousarray(ids.ravel()), np.ascontiguousarray(bounds))
    lengths = np.diff(bags.bounds)
    if len(lengths) < 1 or bags.bounds[0] < 0 or (lengths < 0).any() or bounds[-1] > len(bags.ids):
        raise InvalidRequestError(
            f"bags begin before the one in front ends, or end behind the {len(bags.ids)} ids"
        )
    return bags


def _refuse(field: Field, ids: IntArray) -> None:
    if field.unknown != "reject":
        return
    outside = (ids < 0) | (ids >= field.num_rows)
    if outside.any():
        raise InvalidRequestError(
            f"input {field.name!r} holds id {int(ids[outside][0])}; its table has rows 0 to "
            f"{field.num_rows - 1}",
            field.name,
        )


def shapes(layout: Layout) -> list[Tensor]:
    """The inputs of a model without an index graph: each field's ids, as many as it takes."""
    found: dict[str, Tensor] = {}
    for field in layout.fields:
        shape = [-1] if field.length is None else [] if field.length == 1 else [field.length]
        name = field.ids or field.name
        found.setdefault(name, Tensor(name, "int64", shape))
    return list(found.values())
