"""The items of a ranking model: their names, and the rows that each one reads: pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from services.recommender.features import NamedRows, NumberedRows, Vocabulary
from shared.errors import InvalidRequestError

IntArray = npt.NDArray[np.integer]
MAX_NAMED = 5
"""Of unknown candidates, as many are named in the answer."""


class Items:
    """Items with names, or numbered ones. An item's number is its place in the catalogue."""

    def __init__(
        self, num_items: int, names: Sequence[str] | None = None, rows: IntArray | None = None
    ) -> None:
        """`rows` [num_items, num candidate fields] comes with `names`; without them, item i is
        called "i" and reads row i of the one candidate field."""
        self.num_items = num_items
        self.has_names = names is not None
        self._names = names
        self._rows = rows
        self._numbers: Vocabulary = (
            NumberedRows(num_items) if names is None else NamedRows(names, first=0)
        )

    def name(self, item: int) -> str:
        """What the item is called."""
        return str(item) if self._names is None else self._names[item]

    def rows(self, items: IntArray) -> IntArray:
        """Table rows [len(items), num candidate fields]."""
        return items[:, None] if self._rows is None else self._rows[items]

    def all_but(self, excluded: Sequence[str]) -> IntArray:
        """The whole catalogue without the excluded names. Raises InvalidRequestError where items
        are numbered: then there are too many to choose from."""
        if not self.has_names:
            raise InvalidRequestError(
                f"the {self.num_items} items of this model have no names to choose from; say "
                "which candidates to score",
                "candidates",
            )
        found = [self._numbers.row(name) for name in excluded]
        numbers = [number for number in found if number is not None]
        return np.delete(np.arange(self.num_items), numbers)

    def find(self, names: Sequence[str]) -> IntArray:
        """The items of these names, in their order. Raises InvalidRequestError naming those that
        are not in the catalogue."""
        if not names:
            raise InvalidRequestError("candidates is empty; name at least one", "candidates")
        found = [(name, self._numbers.row(name)) for name in names]
        numbers = [number for _, number in found if number is not None]
        if len(numbers) < len(names):
            unknown = [name for name, number in found if number is None]
            shown = ", ".join(repr(name) for name in unknown[:MAX_NAMED])
            more = f" and {len(unknown) - MAX_NAMED} more" if len(unknown) > MAX_NAMED else ""
            raise InvalidRequestError(
                f"not in the catalogue of {self.num_items} items: {shown}{more}", "candidates"
            )
        return np.array(numbers, np.intp)
