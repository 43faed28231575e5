"""What the voter counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

ROUNDS = Counter("vote_rounds", "Rounds by how they were closed", ["closed_by"])
REFUSED_PROPOSALS = Counter("refused_proposals", "Proposals that had no open round", ["reason"])
LATE_PROPOSALS = Counter("late_proposals", "Proposals missing when a round closed", ["drafter"])
BAD_PROPOSALS = Counter("bad_proposals", "Proposals with tokens out of bounds", ["drafter"])
STALE_REQUESTS = Counter("stale_draft_requests", "Draft requests of a round that was over")
VOTES_WON = Counter("votes_won", "Rounds whose draft was this drafter's", ["drafter"])
WEIGHT = Gauge("drafter_weight", "Weight of a drafter's vote", ["target", "drafter"])
SPECULATION_LENGTH = Gauge("speculation_length", "Draft tokens asked for next", ["target"])
