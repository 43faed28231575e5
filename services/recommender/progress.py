"""How far long work is, on standard error."""

from __future__ import annotations

import sys

WIDTH = 40


def show(share: float, what: str) -> None:
    """A bar that is drawn over itself until all is done."""
    bar = "#" * round(share * WIDTH)
    end = "\n" if share == 1 else ""
    print(f"\r[{bar:.<{WIDTH}}] {what[:WIDTH]:{WIDTH}}", end=end, file=sys.stderr, flush=True)
