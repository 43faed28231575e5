"""What finished generations add up to, in all and for each draft model. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from shared.messages import GenerationReport


@dataclass(slots=True)
class Totals:
    """Of all finished requests; the names are those of `GET /v1/status`."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    target_passes: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(slots=True)
class DrafterTotals:
    """Of one draft model; `weight` is its last one."""

    num_proposed_tokens: int = 0
    num_agreed_tokens: int = 0
    num_votes_won: int = 0
    weight: float = 1.0

    @property
    def acceptance(self) -> float:
        """How many of its tokens were the target's own."""
        if not self.num_proposed_tokens:
            return 0.0
        return self.num_agreed_tokens / self.num_proposed_tokens


class Tally:
    """Since the gateway's start."""

    def __init__(self) -> None:
        self.totals = Totals()
        self.drafters: dict[str, DrafterTotals] = {}

    def add(self, num_prompt: int, num_tokens: int, report: GenerationReport) -> None:
        """One request has finished."""
        totals = self.totals
        totals.requests += 1
        totals.prompt_tokens += num_prompt
        totals.completion_tokens += num_tokens
        totals.target_passes += len(report.per_round)
        totals.draft_tokens += sum(drafted for drafted, _ in report.per_round)
        totals.accepted_tokens += sum(accepted for _, accepted in report.per_round)
        for own in report.drafters:
            drafter = self.drafters.setdefault(own.drafter, DrafterTotals())
            drafter.num_proposed_tokens += own.num_proposed_tokens
            drafter.num_agreed_tokens += own.num_agreed_tokens
            drafter.num_votes_won += own.num_votes_won
            drafter.weight = own.weight
