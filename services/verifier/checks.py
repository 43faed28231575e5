"""What a generation request must be to be worked on; the gateway's clients learn what it says."""

from __future__ import annotations

from shared.errors import InvalidRequestError
from shared.lm.manifest import Manifest
from shared.messages import GenerateRequest

MAX_LOGPROBS = 20


def check(request: GenerateRequest, manifest: Manifest, max_speculation_length: int) -> None:
    """Raises InvalidRequestError naming the field at fault."""
    if not request.prompt:
        raise InvalidRequestError("the prompt is empty; at least one token is needed", "prompt")
    fewest = 1 if request.num_prompt_logprobs is None else 0
    if request.max_tokens < fewest:
        raise InvalidRequestError(
            "max_tokens must be at least 1, or 0 where of the prompt log probabilities are wanted",
            "max_tokens",
        )
    wanted = len(request.prompt) + request.max_tokens
    if wanted > manifest.max_context:
        raise InvalidRequestError(
            f"prompt of {len(request.prompt)} and max_tokens of {request.max_tokens} exceed "
            f"the context of {manifest.max_context} tokens",
            "max_tokens",
        )
    if not 0 <= request.min_tokens <= request.max_tokens:
        raise InvalidRequestError(
            f"min_tokens must lie within 0 and max_tokens, {request.max_tokens}", "min_tokens"
        )
    for param, number in (
        ("logprobs", request.num_logprobs),
        ("prompt_logprobs", request.num_prompt_logprobs),
    ):
        if number is not None and not 0 <= number <= MAX_LOGPROBS:
            raise InvalidRequestError(f"{param} must lie within 0 and {MAX_LOGPROBS}", param)
    _check_tokens(request, manifest.vocab_size)
    lengths = (request.steering.length, request.steering.max_length)
    if not all(0 <= length <= max_speculation_length for length in lengths if length is not None):
        raise InvalidRequestError(
            f"speculation: this verifier takes lengths within 0 and {max_speculation_length}",
            "speculation",
        )


def _check_tokens(request: GenerateRequest, vocab_size: int) -> None:
    named = [*request.prompt, *request.sampling.logit_bias, *request.stop_tokens]
    if min(named) < 0 or max(named) >= vocab_size:
        raise InvalidRequestError(f"token ids must lie within 0 and {vocab_size - 1}", "prompt")
