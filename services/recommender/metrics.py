"""What the recommender counts."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

SCORING_SECONDS = Histogram(
    "scoring_seconds",
    "From a batch of requests to their scores",
    buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0),
)
SCORING_REQUESTS = Histogram(
    "scoring_requests", "Requests scored in one batch", buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)
SCORED_ITEMS = Counter("scored_items", "Items scored")
UNKNOWN_VALUES = Counter("unknown_context_values", "Context values that the model has no row for")
CATALOGUE_ITEMS = Gauge("catalogue_items", "Items that the model can recommend", ["model"])
ROWS_WRITTEN = Counter("rows_written", "Rows of tables that this process has replaced")
ARENA_BYTES = Gauge("arena_bytes", "Of a version's tables, by the pages they are on",
                    ["model", "version", "pages"])  # fmt: skip
UNKNOWN_IDS = Gauge("unknown_ids", "Ids that were outside of their tables, since the version was "
                    "loaded", ["model", "version", "field"])  # fmt: skip


def observe_version(
    model: str, version: str, pages: dict[str, int], unknown: dict[str, Callable[[], float]]
) -> None:
    """Shows a version from now on."""
    for kind, num_bytes in pages.items():
        ARENA_BYTES.labels(model, version, kind).set(num_bytes)
    for field, count in unknown.items():
        UNKNOWN_IDS.labels(model, version, field).set_function(count)


def forget_version(model: str, version: str, fields: list[str]) -> None:
    """Shows a version no more."""
    for kind in ("huge", "small"):
        ARENA_BYTES.remove(model, version, kind)
    for field in fields:
        UNKNOWN_IDS.remove(model, version, field)
