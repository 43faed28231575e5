"""What the recommender counts."""

from __future__ import annotations

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
