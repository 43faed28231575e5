"""The bodies that the REST routes answer with, in OpenAI's shapes. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from shared.generation import Times
from shared.messages import GenerationReport, Scores

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Shape:
    """What all parts of one answer share: `kind` is `completion` or `chat`."""

    kind: str
    response_id: str
    created: int
    model: str
    service_tier: str | None = None
    """Told where it was asked for."""

    def whole(self, choices: Sequence[Json], usage: Json) -> Json:
        """The answer in one piece."""
        name = "chat.completion" if self.kind == "chat" else "text_completion"
        return {**self._head(name), "choices": list(choices), "usage": usage}

    def chunk(self, choices: Sequence[Json], usage: Json | None = None) -> Json:
        """A part of a streamed answer; the last one has no choices and the usage."""
        name = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        body = {**self._head(name), "choices": list(choices)}
        return body if usage is None else {**body, "usage": usage}

    def choice(
        self,
        index: int,
        text: str,
        calls: Sequence[Json],
        reason: str | None,
        logprobs: Json | None,
    ) -> Json:
        """One finished choice."""
        content: Json = {"text": text}
        if self.kind == "chat":
            said: Json = {"role": "assistant", "content": text, "refusal": None}
            if calls:
                said = {**said, "content": text or None, "tool_calls": list(calls)}
            content = {"message": said}
        return {"index": index, **content, "logprobs": logprobs, "finish_reason": reason}

    def delta(
        self,
        index: int,
        text: str,
        calls: Sequence[Json],
        reason: str | None,
        logprobs: Json | None,
        is_first: bool,
    ) -> Json:
        """What is new in one choice of a stream."""
        content: Json = {"text": text}
        if self.kind == "chat":
            delta: Json = {"role": "assistant", "content": text} if is_first else {}
            if text and not is_first:
                delta = {"content": text}
            if calls:
                delta["tool_calls"] = list(calls)
            content = {"delta": delta}
        return {"index": index, **content, "logprobs": logprobs, "finish_reason": reason}

    def _head(self, name: str) -> Json:
        head: Json = {
            "id": self.response_id,
            "object": name,
            "created": self.created,
            "model": self.model,
        }
        return head if self.service_tier is None else {**head, "service_tier": self.service_tier}


def usage(num_prompt_tokens: int, num_completion_tokens: int, num_reused_tokens: int) -> Json:
    """OpenAI's `usage`; of the prompts, `num_reused_tokens` were in a cache already."""
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_completion_tokens,
        "total_tokens": num_prompt_tokens + num_completion_tokens,
        "prompt_tokens_details": {"cached_tokens": num_reused_tokens},
    }


def speculation(report: GenerationReport) -> Json:
    """vLLM's `metrics.speculative_decoding` object, and what each drafter did."""
    rounds = report.per_round
    drafts = [(drafted, accepted) for drafted, accepted in rounds if drafted > 0]
    num_drafted = sum(drafted for drafted, _ in drafts)
    num_accepted = sum(accepted for _, accepted in drafts)
    by_length: dict[int, Counter[int]] = {}
    for drafted, accepted in drafts:
        by_length.setdefault(drafted, Counter())[accepted] += 1
    return {
        "mean_acceptance_length": 1 + num_accepted / len(drafts) if drafts else 1.0,
        "draft_acceptance_rate": num_accepted / num_drafted if num_drafted else 0.0,
        "acceptance_histogram": _histogram(Counter(accepted for _, accepted in drafts)),
        "acceptance_histogram_by_draft_length": {
            str(length): _histogram(counts) for length, counts in sorted(by_length.items())
        },
        "num_spec_steps": len(drafts),
        "num_accepted_draft_tokens": num_accepted,
        "num_draft_tokens": num_drafted,
        "num_spec_tokens": max((drafted for drafted, _ in drafts), default=0),
        "num_target_passes": len(rounds),
        "num_draft_timeouts": report.num_timeouts,
        "seconds": seconds(report.times),
        "drafters": [
            {
                "name": drafter.drafter,
                "num_proposals": drafter.num_proposals,
                "num_proposed_tokens": drafter.num_proposed_tokens,
                "num_ready_tokens": drafter.num_ready_tokens,
                "num_votes_won": drafter.num_votes_won,
                "agreement": drafter.num_agreed_tokens / drafter.num_proposed_tokens
                if drafter.num_proposed_tokens
                else 0.0,
                "weight": drafter.weight,
            }
            for drafter in report.drafters
        ],
    }


def seconds(times: Times) -> Json:
    """Where the time went."""
    return {
        "drafting": times.drafting_s,
        "voting": times.voting_s,
        "hops": times.hops_s,
        "waiting": times.waiting_s,
        "forward_pass": times.forward_s,
        "sampling": times.sampling_s,
        "rest": times.rest_s,
    }


def error(message: str, kind: str, param: str | None, code: str | None) -> Json:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def recommendations(model: str, scores: Scores) -> Json:
    pairs = zip(scores.items, scores.scores, strict=True)
    return {
        "object": "list",
        "model": model,
        "version": scores.version,
        "data": [
            {"item": item, "score": score, "rank": rank}
            for rank, (item, score) in enumerate(pairs, 1)
        ],
        "num_unknown": scores.num_unknown,
    }


def scored(model: str, version: str, scores: Sequence[float], best: Sequence[int] | None) -> Json:
    """Scores of all items, or those at the `best` places, in that order."""
    head: Json = {"object": "list", "model": model, "version": version}
    if best is None:
        return {**head, "scores": list(scores)}
    data = [
        {"index": index, "score": scores[index], "rank": rank} for rank, index in enumerate(best, 1)
    ]
    return {**head, "data": data}


def _histogram(counts: Counter[int]) -> list[int]:
    """Index is the number of accepted tokens."""
    return [counts[n] for n in range(max(counts, default=-1) + 1)]
