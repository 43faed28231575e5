"""How many log probabilities a body asks for. Pure."""

from __future__ import annotations

from services.gateway.schemas import ChatBody, CompletionBody, GenerationBody


def num_logprobs(body: GenerationBody) -> int | None:
    """How many of the likeliest tokens are told with each token of the answer; None: nothing is."""
    if isinstance(body, CompletionBody):
        return body.logprobs
    return body.top_logprobs if isinstance(body, ChatBody) and body.logprobs else None


def num_echoed(body: GenerationBody) -> int | None:
    """Likewise with each token of the prompt that leads the answer's."""
    return body.logprobs if isinstance(body, CompletionBody) and body.echo else None


def num_of_prompt(body: GenerationBody, max_tokens: int) -> int | None:
    """How many the verifier is to tell with each token of a prompt, for all that is made of it."""
    wanted = [num_echoed(body), body.prompt_logprobs]
    if max_tokens == 0:
        wanted.append(0)  # it is all that there is to do
    return max((number for number in wanted if number is not None), default=None)
