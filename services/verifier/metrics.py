"""What the verifier counts. What vLLM has as well bears its name, so that its dashboards work."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_PASS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

_MODEL = ["model_name"]

REQUESTS_RUNNING = Gauge("vllm:num_requests_running", "Requests that hold a cache slot", _MODEL)
KV_CACHE_USAGE = Gauge(
    "vllm:kv_cache_usage_perc", "Share of the cache that holds tokens of requests, 0 to 1", _MODEL
)
REQUESTS_CAPACITY = Gauge("num_requests_capacity", "Cache slots: the most that can run")
FORWARD_PASS_SECONDS = Histogram(
    "forward_pass_seconds", "Duration of a target pass", ["kind"], buckets=_PASS_BUCKETS
)
FORWARD_PASS_ROWS = Histogram(
    "forward_pass_rows", "Requests in a target pass", ["kind"], buckets=(1, 2, 4, 8, 16, 32, 64)
)
DRAFT_WAIT_SECONDS = Histogram(
    "draft_wait_seconds", "From asking for a draft to having it", buckets=_PASS_BUCKETS
)
DRAFT_TIMEOUTS = Counter("draft_timeouts", "Rounds whose draft did not come in time")
LATE_DRAFTS = Counter("late_drafts", "Drafts that came after their round")
SELF_TEST_UNEQUAL = Gauge("self_test_unequal_rows", "Rows not bit-for-bit equal at start", _MODEL)
PREFIX_CACHE_QUERIES = Counter(
    "vllm:prefix_cache_queries", "Prompt tokens that were needed in a cache", _MODEL
)
PREFIX_CACHE_HITS = Counter(
    "vllm:prefix_cache_hits", "Those of them that were not computed again", _MODEL
)


def forget(model_name: str, num_slots: int) -> None:
    """A target of this process is served no more."""
    REQUESTS_CAPACITY.dec(num_slots)
    REQUESTS_RUNNING.remove(model_name)
    KV_CACHE_USAGE.remove(model_name)
    SELF_TEST_UNEQUAL.remove(model_name)
