"""Aligned columns of plain text. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def aligned(
    head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()
) -> Iterator[str]:
    """The lines; columns whose index is in `right` end at their right edge. The last column is as
    wide as its texts."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        cells = [
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
