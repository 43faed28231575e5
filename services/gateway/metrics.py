"""What the gateway counts. What vLLM has as well bears its name, so that its dashboards work."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)
_MODEL = ["model_name"]


def _seconds(name: str, text: str) -> Histogram:
    return Histogram(name, text, _MODEL, buckets=_SECONDS)


def _gaps(name: str, text: str) -> Histogram:
    return Histogram(name, text, _MODEL, buckets=_GAPS)


def _tokens(name: str, text: str) -> Histogram:
    return Histogram(name, text, _MODEL, buckets=_TOKENS)


IN_FLIGHT = Gauge("num_requests_in_flight", "Admitted requests without a terminal answer")
REQUESTS_WAITING = Gauge(
    "vllm:num_requests_waiting", "Generations that no verifier has begun yet", _MODEL
)
TIME_TO_FIRST_TOKEN = _seconds(
    "vllm:time_to_first_token_seconds", "From admission to the first token"
)
INTER_TOKEN_LATENCY = _gaps("vllm:inter_token_latency_seconds", "Time per token after the first")
TIME_PER_OUTPUT_TOKEN = _gaps(
    "vllm:request_time_per_output_token_seconds",
    "A generation's mean time per token after the first",
)
END_TO_END = _seconds("vllm:e2e_request_latency_seconds", "From admission to the end")
QUEUE_TIME = _seconds(
    "vllm:request_queue_time_seconds", "From admission until a verifier begins, hops included"
)
PREFILL_TIME = _seconds("vllm:request_prefill_time_seconds", "From there to the first token")
DECODE_TIME = _seconds("vllm:request_decode_time_seconds", "From the first token to the end")
INFERENCE_TIME = _seconds(
    "vllm:request_inference_time_seconds", "From when a verifier begins to the end"
)
REQUEST_PROMPT_TOKENS = _tokens("vllm:request_prompt_tokens", "Prompt tokens of a generation")
REQUEST_GENERATION_TOKENS = _tokens(
    "vllm:request_generation_tokens", "Generated tokens of a generation"
)
MAX_GENERATION_TOKENS = _tokens(
    "vllm:request_max_num_generation_tokens", "Tokens of the longest choice of a request"
)
PARAMS_MAX_TOKENS = _tokens("vllm:request_params_max_tokens", "The `max_tokens` of a generation")
SUCCESSES = Counter(
    "vllm:request_success", "Finished generations", ["model_name", "finished_reason"]
)
FAILURES = Counter("request_failure", "Failed generations", ["model_name", "code"])
REJECTIONS = Counter("admission_rejections", "Requests refused at the door", ["reason"])
CANCELLATIONS = Counter(
    "requests_cancelled",
    "Generations ended by DELETE (request), or since their reader lagged (lag) or stood (stall)",
    ["reason"],
)
REPUBLISHED = Counter("requests_republished", "Requests published again after a gap or silence")
UNCLAIMED = Counter(
    "replies_unclaimed", "Terminal messages beyond the first, or for nobody (any more)", ["type"]
)
PROMPT_TOKENS = Counter("vllm:prompt_tokens", "Prompt tokens of finished generations", _MODEL)
GENERATION_TOKENS = Counter(
    "vllm:generation_tokens", "Generated tokens of finished generations", _MODEL
)
DRAFTS = Counter("vllm:spec_decode_num_drafts", "Drafts verified", _MODEL)
DRAFT_TOKENS = Counter("vllm:spec_decode_num_draft_tokens", "Draft tokens verified", _MODEL)
ACCEPTED_TOKENS = Counter(
    "vllm:spec_decode_num_accepted_tokens",
    "Draft tokens accepted; over draft tokens it is the acceptance rate",
    _MODEL,
)
ACCEPTED_TOKENS_PER_POSITION = Counter(
    "vllm:spec_decode_num_accepted_tokens_per_pos",
    "Draft tokens accepted at a position of the draft",
    ["model_name", "position"],
)
