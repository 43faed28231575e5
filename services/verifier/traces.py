"""What traces tell of generations and their rounds, where they are recorded."""

from __future__ import annotations

from services.verifier.batch import Verified
from services.verifier.session import Session
from shared.generation import Times
from shared.tracing import Tracer, current


def tell_round(
    tracer: Tracer, session: Session, verified: Verified, num_emitted: int, times: Times
) -> None:
    """The current span is a round, which was settled. The forward pass that it shared with others
    is a span within it."""
    if not (span := current()):
        return
    num_drafted, num_accepted = session.per_round[-1]
    took = verified.took
    span.set(
        {
            "quorum.round": session.round - 1,
            "quorum.num_draft_tokens": num_drafted,
            "quorum.num_accepted_tokens": num_accepted,
            "quorum.num_emitted_tokens": num_emitted,
            "quorum.drafting_s": times.drafting_s,
            "quorum.voting_s": times.voting_s,
            "quorum.hops_s": times.hops_s,
            "quorum.waiting_s": times.waiting_s,
            "quorum.sampling_s": times.sampling_s,
        }
    )
    tracer.record(
        "forward pass",
        span,
        took.started,
        took.started + took.duration_s,
        {"quorum.num_running": took.num_running},
    )


def tell_generation(model: str, session: Session) -> None:
    """The current span is a whole generation, which ends here."""
    if not (span := current()):
        return
    span.set(
        {
            "gen_ai.request.model": model,
            "gen_ai.usage.input_tokens": session.num_prompt_tokens,
            "gen_ai.usage.output_tokens": session.num_output_tokens,
            "gen_ai.response.finish_reasons": [session.reason] if session.reason else [],
            "quorum.num_rounds": session.round,
            "quorum.num_reused_tokens": session.num_reused_tokens,
            "quorum.num_draft_timeouts": session.num_timeouts,
        }
    )
