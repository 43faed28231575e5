"""What the voter counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

ROUNDS = Counter("vote_rounds", "Rounds by how they were closed", ["closed_by"])
LATE_PROPOSALS = Counter("late_proposals", "Proposals that came after their round", ["drafter"])
BAD_PROPOSALS = Counter("bad_proposals", "Proposals that no one asked for, or out of bounds")
STALE_REQUESTS = Counter("stale_draft_requests", "Draft requests of a round that was over")
VOTES_WON = Counter("votes_won", "Rounds whose draft was this drafter's", ["drafter"])
WEIGHT = Gauge("drafter_weight", "Weight of a drafter's vote", ["target", "drafter"])
SPECULATION_LENGTH = Gauge("speculation_length", "Draft tokens asked for next", ["target"])
