"""What the engine has seen of late: what passes bring, and how long requests stay away.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

_RATE = 0.2


@dataclass(slots=True)
class Usual:
    """What a pass has emitted of late, of how many tokens, and the seconds between it and the one
    before, in which drafts were made."""

    num_emitted: float = 1.0
    num_tokens: float = 2.0
    between_s: float = 0.0

    def observe(self, num_emitted: int, num_tokens: int) -> None:
        self.num_emitted += _RATE * (num_emitted - self.num_emitted)
        self.num_tokens += _RATE * (num_tokens - self.num_tokens)

    def observe_between(self, seconds: float) -> None:
        self.between_s += _RATE * (seconds - self.between_s)


@dataclass(slots=True)
class Absence:
    """How long requests stay away between two passes: mean and mean deviation, in seconds."""

    mean_s: float = 0.01
    deviation_s: float = 0.01

    def observe(self, seconds: float) -> None:
        self.deviation_s += _RATE * (abs(seconds - self.mean_s) - self.deviation_s)
        self.mean_s += _RATE * (seconds - self.mean_s)

    def most(self) -> float:
        """What nearly all keep to, as for a retransmission timeout of TCP (RFC 6298)."""
        return self.mean_s + 4 * self.deviation_s
