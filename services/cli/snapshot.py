"""`GET /v1/status` as figures: rates come from the difference of two looks. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROLES = ("gateway", "verifier", "voter", "drafter", "recommender")
INSTANCE_HEAD = ("role", "name", "instances", "told")
DRAFTER_HEAD = ("drafter", "acceptance", "now", "proposed", "votes won", "weight")


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second, between two looks at the same gateway."""

    tokens: float
    requests: float


def rates(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> Rates | None:
    """None without an earlier look, or where counts have begun anew."""
    if before is None:
        return None
    seconds = now["time"] - before["time"]
    tokens, requests = (
        now["totals"][name] - before["totals"][name] for name in ("completion_tokens", "requests")
    )
    if seconds <= 0 or tokens < 0 or requests < 0:
        return None
    return Rates(tokens / seconds, requests / seconds)


def figures(status: Mapping[str, Any], rate: Rates | None) -> list[tuple[str, str]]:
    """What there is one of, by name."""
    totals = status["totals"]
    queues = ", ".join(f"{name} {lag}" for name, lag in status["queues"].items())
    return [
        ("model", str(status["model"])),
        ("in flight", str(status["in_flight"])),
        ("queued", queues),
        ("tokens/s", "-" if rate is None else f"{rate.tokens:.1f}"),
        ("requests/s", "-" if rate is None else f"{rate.requests:.2f}"),
        ("requests", f"{totals['requests']:,}"),
        ("tokens", f"{totals['completion_tokens']:,}"),
        ("tokens a pass", _ratio(totals["completion_tokens"], totals["target_passes"], "{:.2f}")),
        ("drafts accepted", _ratio(totals["accepted_tokens"], totals["draft_tokens"], "{:.1%}")),
    ]


def instances(status: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each name of a role: how many are live, and what they tell of themselves."""
    told: dict[tuple[str, str], list[str]] = defaultdict(list)
    for instance in status["instances"]:
        attributes = (f"{key}={value}" for key, value in sorted(instance["attributes"].items()))
        told[instance["role"], instance["name"]].append(" ".join(attributes))
    known = {role: place for place, role in enumerate(ROLES)}
    ordered = sorted(told, key=lambda key: (known.get(key[0], len(known)), key))
    return [
        (role, name, str(len(told[role, name])), "; ".join(sorted({*told[role, name]} - {""})))
        for role, name in ordered
    ]


def drafters(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each draft model: acceptance since the start, and since the look before."""
    rows: list[tuple[str, ...]] = []
    for name, own in now["drafters"].items():
        earlier = (before or {}).get("drafters", {}).get(name, {})
        agreed, proposed = (
            own[count] - earlier.get(count, own[count])
            for count in ("num_agreed_tokens", "num_proposed_tokens")
        )
        rows.append(
            (
                str(name),
                f"{own['acceptance']:.1%}",
                _ratio(agreed, proposed, "{:.1%}"),
                f"{own['num_proposed_tokens']:,}",
                f"{own['num_votes_won']:,}",
                f"{own['weight']:.3f}",
            )
        )
    return rows


def _ratio(part: float, whole: float, shape: str) -> str:
    return shape.format(part / whole) if whole > 0 else "-"
