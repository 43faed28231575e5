"""What is told of tokens beside their text: log probabilities in OpenAI's two shapes, and the
rounds that they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.gateway.responses import Json, seconds
from services.gateway.text import Detokenizer, TextModel
from shared.generation import Logprobs, RoundTrace
from shared.tokens import common_length


@dataclass(frozen=True, slots=True)
class Told:
    """A token of the answer with its log probabilities."""

    token: int
    logprobs: Logprobs


def chat_logprobs(text: TextModel, told: Sequence[Told]) -> Json:
    """A chat's: one entry a token, with its bytes."""

    def entry(token: int, logprob: float) -> Json:
        return {
            "token": text.token_text(token),
            "logprob": _finite(logprob),
            "bytes": list(text.token_bytes(token)),
        }

    content = [
        {
            **entry(each.token, each.logprobs.logprob),
            "top_logprobs": [entry(token, logprob) for token, logprob in _top(each)],
        }
        for each in told
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(text: TextModel, told: Sequence[Told], offset: int) -> Json:
    """A completion's: four lists, one place a token; the first begins at `offset`."""
    tokens = [text.token_text(each.token) for each in told]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [_finite(each.logprobs.logprob) for each in told],
        "top_logprobs": [
            # As vLLM and OpenAI: the token itself is always among them.
            {
                text.token_text(token): _finite(logprob)
                for token, logprob in [*_top(each), (each.token, each.logprobs.logprob)]
            }
            for each in told
        ],
        "text_offset": offsets,
    }


class Tracer:
    """One text's rounds, with the texts of their tokens."""

    def __init__(self, text: TextModel) -> None:
        self._text = text
        self._detokenizer = Detokenizer(text)

    def write(self, round: RoundTrace, tokens: Sequence[int]) -> Json:
        """The next round, of which `tokens` came."""
        num_drafted = len(round.draft)
        return {
            "index": round.index,
            "started_s": round.started_s,
            "length": round.length,
            "num_running": round.num_running,
            "draft": self._texts(round.draft),
            "num_accepted": round.num_accepted,
            "tokens": [
                {
                    "token": token,
                    "text": self._detokenizer.push(token),
                    "source": _source(place, round.num_accepted, num_drafted),
                    "drafters": [
                        vote.drafter
                        for vote in round.votes
                        if list(vote.tokens[: place + 1]) == list(tokens[: place + 1])
                    ],
                }
                for place, token in enumerate(tokens)
            ],
            "votes": [
                {
                    "drafter": vote.drafter,
                    "weight": vote.weight,
                    "tokens": self._texts(vote.tokens),
                    "num_agreed": common_length(vote.tokens, tokens),
                }
                for vote in round.votes
            ],
            "seconds": seconds(round.times),
        }

    def _texts(self, tokens: Sequence[int]) -> list[Json]:
        return [{"token": token, "text": self._text.token_text(token)} for token in tokens]


def _source(place: int, num_accepted: int, num_drafted: int) -> str:
    """Where a round's token came from, by its place."""
    if num_drafted == 0:
        return "plain"
    if place < num_accepted:
        return "accepted"
    return "bonus" if num_accepted == num_drafted else "corrected"


def _top(told: Told) -> list[tuple[int, float]]:
    return list(zip(told.logprobs.top_tokens, told.logprobs.top_logprobs, strict=True))


def _finite(logprob: float) -> float:
    """JSON has no infinity; OpenAI says -9999 for what is as good as impossible."""
    return max(logprob, -9999.0)
