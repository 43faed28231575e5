"""What the gateway counts. Names follow vLLM's, so that existing dashboards work."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

IN_FLIGHT = Gauge("num_requests_in_flight", "Admitted requests without a terminal answer")
TIME_TO_FIRST_TOKEN = Histogram(
    "time_to_first_token_seconds", "From admission to the first token", ["model_name"],
    buckets=_SECONDS,
)  # fmt: skip
INTER_TOKEN_LATENCY = Histogram(
    "inter_token_latency_seconds", "Time per token after the first", ["model_name"], buckets=_GAPS
)
END_TO_END = Histogram(
    "e2e_request_latency_seconds", "From admission to the end", ["model_name"], buckets=_SECONDS
)
SUCCESSES = Counter("request_success", "Finished requests", ["model_name", "finished_reason"])
FAILURES = Counter("request_failure", "Failed requests", ["model_name", "code"])
REJECTIONS = Counter("admission_rejections", "Requests refused at the door", ["reason"])
REPUBLISHED = Counter("requests_republished", "Requests published again after a gap or silence")
UNCLAIMED = Counter(
    "replies_unclaimed", "Terminal messages beyond the first, or for nobody (any more)", ["type"]
)
PROMPT_TOKENS = Counter("prompt_tokens", "Prompt tokens", ["model_name"])
GENERATION_TOKENS = Counter("generation_tokens", "Generated tokens", ["model_name"])
DRAFTS = Counter("spec_decode_num_drafts", "Drafts verified", ["model_name"])
DRAFT_TOKENS = Counter("spec_decode_num_draft_tokens", "Draft tokens verified", ["model_name"])
ACCEPTED_TOKENS = Counter(
    "spec_decode_num_accepted_tokens",
    "Draft tokens accepted; over draft tokens it is the acceptance rate",
    ["model_name"],
)
ACCEPTED_TOKENS_PER_POSITION = Counter(
    "spec_decode_num_accepted_tokens_per_pos",
    "Draft tokens accepted at a position of the draft",
    ["model_name", "position"],
)
