"""A request of tensors, as ids: names, types and shapes are checked here, once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from services.recommender.ids import IdGraph
from services.recommender.layout import Field, Layout, Tensor
from services.recommender.query import Bags, Query
from services.recommender.wiring import Wiring
from shared.errors import InvalidRequestError

Array = npt.NDArray[np.int64] | npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
NO_LIMIT = np.iinfo(np.uint64).max


class Tensors:
    """Reads what `Layout.inputs` says: rows of ids, of which one holds for all items where others
    have many (a user with candidates); a negative id in a bag is none."""

    def __init__(self, layout: Layout, wiring: Wiring, graph: IdGraph | None) -> None:
        self._layout = layout
        self._bags = wiring.bags
        self._direct = [f for f in layout.fields if f.name in wiring.columns]
        self._bagged = [f for f in layout.fields if f.name not in wiring.columns]
        self._by_column = [f for f in self._direct for _ in range(f.length or 1)]
        self._highest = np.array([_highest(field) for field in self._by_column], np.uint64)
        """By column, of the ids that are not refused."""
        self._graph = graph
        self._inputs = {tensor.name: tensor for tensor in layout.inputs}
        self._exact = {
            tensor.name: (np.dtype(tensor.dtype), tuple(tensor.shape)) for tensor in layout.inputs
        }
        """Type and shape of a row as nearly all requests have them."""

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
            array, (dtype, shape) = inputs[name], self._exact[name]
            is_usual = array.dtype == dtype and array.ndim == 1 + len(shape) and len(array) > 0
            if not (is_usual and array.shape[1:] == shape):
                _check(self._inputs[name], array)
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
            self._blocks(ids),
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

    def _blocks(self, ids: Mapping[str, IntArray]) -> list[tuple[slice, IntArray]]:
        """Neighbouring columns that hold for all items are one block: to copy a column takes
        longer than to look its rows up."""
        groups: list[list[IntArray]] = []
        for field in self._direct:
            array = ids[field.ids or field.name].reshape(-1, field.length or 1)
            if groups and len(array) == len(groups[-1][-1]) == 1:
                groups[-1].append(array)
            else:
                groups.append([array])
        found, start = [], 0
        for group in groups:
            block = np.concatenate(group, axis=1) if len(group) > 1 else group[0]
            columns = slice(start, start := start + block.shape[1])
            self._refuse(block, columns)
            found.append((columns, block))
        return found

    def _refuse(self, block: IntArray, columns: slice) -> None:
        # Negative ids are the highest of all without their sign.
        outside = block.view(np.uint64) > self._highest[columns]
        if outside.any():
            row, column = np.argwhere(outside)[0].tolist()
            raise _refusal(self._by_column[columns.start + column], int(block[row, column]))

    def _read_bags(self, ids: Mapping[str, IntArray]) -> list[Bags]:
        found: dict[str, Bags] = {}
        for field in self._bagged:
            array = ids[field.ids or field.name]
            bags = _bags(array) if field.bounds is None else _bounded(array, ids[field.bounds])
            outside = bags.ids.view(np.uint64) > _highest(field)
            if outside.any():
                raise _refusal(field, int(bags.ids[outside][0]))
            found[field.name] = bags
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


def _highest(field: Field) -> int:
    return field.num_rows - 1 if field.unknown == "reject" else NO_LIMIT


def _refusal(field: Field, name: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"input {field.name!r} holds id {name}; its table has rows 0 to {field.num_rows - 1}",
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
