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
            "top_logprobs": [entry(token, logprob) for token, logprob in _top(each.logprobs)],
        }
        for each in told
    ]
    return {"content": content, "refusal": None}


@dataclass(frozen=True, slots=True)
class PromptTold:
    """What is told of an echoed prompt: of each token but the first the log probabilities, and
    `num_top` of the likeliest; and the text that leads the answer."""

    tokens: Sequence[int]
    logprobs: Sequence[Logprobs]
    num_top: int
    echo: str


@dataclass(frozen=True, slots=True)
class _Place:
    """A token in a completion's lists."""

    token: str
    logprob: float | None
    top: dict[str, float] | None
    offset: int


def completion_logprobs(
    text: TextModel, told: Sequence[Told], offset: int, prompt: PromptTold | None = None
) -> Json:
    """A completion's: four lists, one place a token; the first begins at `offset`. An echoed prompt
    is before them."""
    places = [] if prompt is None else _of_prompt(text, prompt)
    for each in told:
        top = _top(each.logprobs)
        places.append(_place(text, each.token, each.logprobs, top, offset))
        offset += num_chars(text, each.token)
    return {
        "tokens": [place.token for place in places],
        "token_logprobs": [place.logprob for place in places],
        "top_logprobs": [place.top for place in places],
        "text_offset": [place.offset for place in places],
    }


def prompt_logprobs(
    text: TextModel, tokens: Sequence[int], logprobs: Sequence[Logprobs], num_top: int
) -> list[Json | None]:
    """vLLM's `prompt_logprobs`: nothing of the first token, then of each itself and the likeliest,
    by their ids."""

    def entry(token: int, logprob: float, rank: int) -> Json:
        named = text.token_text(token)
        return {"logprob": _finite(logprob), "rank": rank, "decoded_token": named}

    places: list[Json | None] = [None]
    for token, said in zip(tokens[1:], logprobs, strict=True):
        place: Json = {str(token): entry(token, said.logprob, said.rank)}
        for rank, (other, logprob) in enumerate(_top(said)[:num_top], 1):
            place[str(other)] = entry(other, logprob, rank)
        places.append(place)
    return places


def num_chars(text: TextModel, token: int) -> int:
    """Of an answer's text, those that begin in this token."""
    if text.is_marker(token):
        return 0
    return sum(byte & 0xC0 != 0x80 for byte in text.token_bytes(token))


def _of_prompt(text: TextModel, prompt: PromptTold) -> list[_Place]:
    places = []
    offset = 0
    for token, said in zip(prompt.tokens, [None, *prompt.logprobs], strict=True):
        top = [] if said is None else _top(said)[: prompt.num_top]
        # What a tokenizer puts before a text is no part of it.
        offset = min(offset, len(prompt.echo))
        places.append(_place(text, token, said, top, offset))
        named = text.token_text(token)
        is_there = text.is_marker(token) and prompt.echo.startswith(named, offset)
        offset += len(named) if is_there else num_chars(text, token)
    return places


def _place(
    text: TextModel,
    token: int,
    said: Logprobs | None,
    top: Sequence[tuple[int, float]],
    offset: int,
) -> _Place:
    named = text.token_text(token)
    if said is None:
        return _Place(named, None, None, offset)
    # As vLLM and OpenAI: the token itself is always among them.
    known = {text.token_text(t): _finite(p) for t, p in [*top, (token, said.logprob)]}
    return _Place(named, _finite(said.logprob), known, offset)


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
                    "num_ready": vote.num_ready,
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


def _top(said: Logprobs) -> list[tuple[int, float]]:
    return list(zip(said.top_tokens, said.top_logprobs, strict=True))


def _finite(logprob: float) -> float:
    """JSON has no infinity; OpenAI says -9999 for what is as good as impossible."""
    return max(logprob, -9999.0)
