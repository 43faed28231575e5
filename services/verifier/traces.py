"""What traces tell of generations and their rounds, where they are recorded."""

from __future__ import annotations

from services.verifier.session import Session
from shared.generation import Times
from shared.tracing import current


def tell_round(session: Session, num_emitted: int, num_running: int, times: Times) -> None:
    """The current span is a round, which was settled. Its parts are no spans of their own: at a
    thousand rounds a second those would tell."""
    if not (span := current()):
        return
    num_drafted, num_accepted = session.per_round[-1]
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
            "quorum.forward_pass_s": times.forward_s,
            "quorum.sampling_s": times.sampling_s,
            "quorum.num_running": num_running,
        }
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
