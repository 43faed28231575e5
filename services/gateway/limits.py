"""What one key may use: requests and tokens a minute, requests at a time. Pure but for the clock
that it is given.

A minute's share is a bucket that is full at first and fills steadily, so that nobody waits for the
full minute, and no moment lets twice the share through. Each gateway counts for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from shared.errors import OverloadedError

MINUTE_S = 60.0
BUSY_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_in_flight: int | None = None


class Bucket:
    """A share of something a minute."""

    def __init__(self, what: str, share: int, clock: Callable[[], float]) -> None:
        self.share = share
        self._what = what
        self._clock = clock
        self._level = float(share)
        self._at = clock()

    @property
    def level(self) -> float:
        """What may be taken now; not below zero."""
        now = self._clock()
        filled = self._level + (now - self._at) * self.share / MINUTE_S
        self._level, self._at = min(float(self.share), filled), now
        return max(0.0, self._level)

    @property
    def full_in_s(self) -> float:
        return (self.share - self.level) * MINUTE_S / self.share

    def take(self, amount: int) -> None:
        """Raises OverloadedError for more than there is."""
        level = self.level
        if amount > self.share:
            raise OverloadedError(
                f"the request asks for {amount} {self._what}; this key has {self.share} a minute",
                MINUTE_S,
            )
        if amount > level:
            wait_s = (amount - level) * MINUTE_S / self.share
            raise OverloadedError(
                f"this key has used its {self.share} {self._what} a minute; "
                f"{amount} are there again in {wait_s:.1f} s",
                wait_s,
            )
        self._level -= amount

    def give_back(self, amount: int) -> None:
        """What was taken and not used."""
        self._level = min(float(self.share), self.level + amount)


class Meter:
    """One key's use."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self.limits = limits
        self.num_in_flight = 0
        self._requests = _bucket("requests", limits.requests_per_minute, clock)
        self._tokens = _bucket("tokens", limits.tokens_per_minute, clock)

    @contextmanager
    def enter(self) -> Iterator[None]:
        """A request, for the time of the body. Raises OverloadedError."""
        most = self.limits.max_in_flight
        if most is not None and self.num_in_flight >= most:
            raise OverloadedError(
                f"{self.num_in_flight} requests of this key are in flight, the most it may have",
                BUSY_RETRY_S,
            )
        if self._requests is not None:
            self._requests.take(1)
        self.num_in_flight += 1
        try:
            yield
        finally:
            self.num_in_flight -= 1

    def take_tokens(self, amount: int) -> None:
        """Those that a request may come to. Raises OverloadedError."""
        if self._tokens is not None:
            self._tokens.take(amount)

    def give_back_tokens(self, amount: int) -> None:
        """Those that it did not."""
        if self._tokens is not None:
            self._tokens.give_back(amount)

    def headers(self) -> dict[str, str]:
        """OpenAI's, of the limits that there are."""
        found: dict[str, str] = {}
        for what, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket is not None:
                found[f"x-ratelimit-limit-{what}"] = str(bucket.share)
                found[f"x-ratelimit-remaining-{what}"] = str(int(bucket.level))
                found[f"x-ratelimit-reset-{what}"] = f"{bucket.full_in_s:.3f}s"
        return found


def _bucket(what: str, share: int | None, clock: Callable[[], float]) -> Bucket | None:
    return None if share is None else Bucket(what, share, clock)
