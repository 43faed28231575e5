"""What a run of load comes to: counts, rates, percentiles. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import ceil

from services.cli.tables import aligned

PERCENTS = (50, 90, 99)
LATENCIES = {
    "first_token_s": "first token, ms",
    "inter_token_s": "between tokens, ms",
    "total_s": "end to end, ms",
}


@dataclass(slots=True)
class Record:
    """One request: how long until the first token and the end, its tokens, and the kind of error
    that it ended with, if any."""

    started: float
    first_s: float | None = None
    total_s: float = 0.0
    num_tokens: int = 0
    num_prompt_tokens: int = 0
    error: str | None = None
    message: str = ""
    """What an error said."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Of seconds."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Report:
    """`seconds` is the whole run; tokens are those of requests that succeeded. Latencies are None
    where nothing tells them (no stream: no first token)."""

    num_requests: int
    num_succeeded: int
    errors: dict[str, int]
    messages: dict[str, str]
    """The first of each kind of error."""
    seconds: float
    most_open: int
    num_prompt_tokens: int
    num_tokens: int
    requests_per_second: float
    tokens_per_second: float
    first_token_s: Spread | None
    inter_token_s: Spread | None
    total_s: Spread | None


def report(records: Sequence[Record], seconds: float, most_open: int) -> Report:
    """Every record counts once, as a success or as its kind of error."""
    good = [record for record in records if record.error is None]
    num_tokens = sum(record.num_tokens for record in good)
    return Report(
        num_requests=len(records),
        num_succeeded=len(good),
        errors=dict(Counter(r.error for r in records if r.error is not None).most_common()),
        messages={r.error: r.message for r in reversed(records) if r.error is not None},
        seconds=seconds,
        most_open=most_open,
        num_prompt_tokens=sum(record.num_prompt_tokens for record in good),
        num_tokens=num_tokens,
        requests_per_second=len(good) / seconds,
        tokens_per_second=num_tokens / seconds,
        first_token_s=spread([r.first_s for r in good if r.first_s is not None]),
        inter_token_s=spread(
            [
                (r.total_s - r.first_s) / (r.num_tokens - 1)
                for r in good
                if r.first_s is not None and r.num_tokens > 1
            ]
        ),
        total_s=spread([record.total_s for record in good]),
    )


def spread(values: Sequence[float]) -> Spread | None:
    """None of nothing. Percentiles are values that occurred (nearest rank)."""
    if not values:
        return None
    ordered = sorted(values)
    p50, p90, p99 = (ordered[ceil(len(ordered) * percent / 100) - 1] for percent in PERCENTS)
    return Spread(sum(ordered) / len(ordered), p50, p90, p99, ordered[-1])


def lines(done: Report, unit: str) -> Iterator[str]:
    """As text; `unit` is what requests are made of, tokens or scores."""
    failed = done.num_requests - done.num_succeeded
    yield (
        f"{done.num_requests} requests in {done.seconds:.2f} s, {failed} failed, at most "
        f"{done.most_open} at a time"
    )
    for kind, count in done.errors.items():
        yield f"  {count} x {kind}" + (f": {text}" if (text := done.messages[kind]) else "")
    yield (
        f"{done.requests_per_second:.2f} requests/s, {done.tokens_per_second:.1f} {unit}/s, "
        f"{done.num_tokens} {unit}"
    )
    rows = [
        (title, *(f"{seconds * 1e3:.1f}" for seconds in asdict(found).values()))
        for name, title in LATENCIES.items()
        if (found := getattr(done, name)) is not None
    ]
    if rows:
        head = ("", "mean", *(f"p{percent}" for percent in PERCENTS), "max")
        yield from aligned(head, rows, right=range(1, len(head)))
