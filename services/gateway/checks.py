"""What a generation's fields must be together, and with its prompts and its model."""

from __future__ import annotations

from collections.abc import Sequence

from services.gateway.asked import num_of_prompt
from services.gateway.config import GatewayConfig
from services.gateway.schemas import ChatBody, CompletionBody, GenerationBody
from services.gateway.text import TextModel
from shared.errors import InvalidRequestError

MAX_TOLD = 1_000_000
"""Log probabilities of an answer's prompts: so many are some 40 MB of JSON."""


def check(
    body: GenerationBody,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    text: TextModel,
    config: GatewayConfig,
) -> None:
    """Raises InvalidRequestError naming the field at fault."""
    text.require_tokens(body.stop_token_ids, "stop_token_ids")
    num_choices = len(prompts) * body.n
    if num_choices > config.max_choices:
        raise InvalidRequestError(
            f"{len(prompts)} prompts with n={body.n} make {num_choices} choices; "
            f"at most {config.max_choices} are served at a time",
            "n",
        )
    if body.return_trace and num_choices > 1:
        raise InvalidRequestError(
            "return_trace: the rounds of one choice can be told, not of several", "return_trace"
        )
    _check_max_tokens(body, max_tokens)
    _check_logprobs(body, prompts, max_tokens)
    for prompt in prompts:
        if len(prompt) + max_tokens > text.manifest.max_context:
            raise InvalidRequestError(
                f"the prompt has {len(prompt)} tokens and {max_tokens} more are wanted; "
                f"the model's context is {text.manifest.max_context} tokens",
                "messages" if isinstance(body, ChatBody) else "prompt",
            )


def _check_max_tokens(body: GenerationBody, max_tokens: int) -> None:
    is_echoed = isinstance(body, CompletionBody) and body.echo
    if max_tokens == 0 and not is_echoed:
        raise InvalidRequestError(
            "max_tokens: must be greater than 0 where no prompt is echoed", "max_tokens"
        )
    if body.min_tokens > max_tokens:
        raise InvalidRequestError(
            f"min_tokens: {body.min_tokens} are more than the {max_tokens} there may be",
            "min_tokens",
        )


def _check_logprobs(
    body: GenerationBody, prompts: Sequence[Sequence[int]], max_tokens: int
) -> None:
    if isinstance(body, ChatBody) and body.top_logprobs and not body.logprobs:
        raise InvalidRequestError("top_logprobs goes with logprobs: true", "top_logprobs")
    if body.prompt_logprobs is not None and body.stream:
        raise InvalidRequestError(
            "prompt_logprobs: a stream does not tell them; echo with logprobs does",
            "prompt_logprobs",
        )
    num_top = num_of_prompt(body, max_tokens)
    if num_top is None:
        return
    num_told = sum(map(len, prompts)) * body.n * (1 + num_top)
    if num_told > MAX_TOLD:
        name = "logprobs" if body.prompt_logprobs is None else "prompt_logprobs"
        raise InvalidRequestError(
            f"{name}: of these prompts {num_told} log probabilities would be told; "
            f"an answer has at most {MAX_TOLD}",
            name,
        )
