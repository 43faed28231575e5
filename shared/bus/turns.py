"""Whose turn it is where a consumer reads two topics: what is urgent, and what can wait. Pure."""

from __future__ import annotations

LOW_TURN = 8
"""Of so many messages in a row, one is a low one if any waits: it is slow then, not stuck."""


class Turns:
    """One consumer's."""

    def __init__(self) -> None:
        self._num_since = 0

    @property
    def is_lows(self) -> bool:
        """Whether to look at the low topic before the other."""
        return self._num_since >= LOW_TURN - 1

    def took(self, *, is_low: bool) -> None:
        """A message was taken."""
        self._num_since = 0 if is_low else self._num_since + 1
