"""What a drafter counts, by draft model."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

DRAFT_SECONDS = Histogram(
    "draft_seconds",
    "From a batch of draft requests to its proposals",
    ["draft_model"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
)
PROPOSED_TOKENS = Counter("drafter_proposed_tokens", "Tokens proposed", ["draft_model"])
AHEAD_TOKENS = Counter(
    "drafter_ahead_tokens", "Tokens drafted before anybody asked for them", ["draft_model"]
)
READY_TOKENS = Counter(
    "drafter_ready_tokens",
    "Proposed tokens that were there when they were asked for",
    ["draft_model"],
)
UNSYNCED = Counter("drafter_unsynced", "Rounds without the request's context", ["draft_model"])
