"""Votes, trees and ways of drawing, compared over the record (benchmarks.regret prints them)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.recorded import Track
from benchmarks.replay import LARGE, SMALL, Costs, Replay, Seat, whole
from benchmarks.rules import Fixed, Learned, Rule, Single, Useful, Weighted
from benchmarks.trees import TreeReplay
from services.verifier.drafting import Drafters, lookup_suffices
from services.voter.estimator import Opinion
from shared.tokens import common_length

LENGTHS = (4, 8, 12)
WIDTHS, WORTHS = (1, 2, 4), (1.0, 2.0, 4.0)
NOISE_LENGTH = 4
SETTINGS = {"110 M, 1": (LARGE, 1), "110 M, 8": (LARGE, 8), "6 M, 1": (SMALL, 1)}
"""Costs and requests at a time."""

LOOKUPS = frozenset({"ngram", "suffix"})
WHO: tuple[Drafters, ...] = ("all", "lookup", "needed")

Value = str | float | int


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of the same columns."""

    rows: list[dict[str, Value]]

    def markdown(self) -> str:
        names = list(self.rows[0])
        lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
        for row in self.rows:
            cells = [f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)


def of(tracks: Sequence[Track], temperature: float, kind: str) -> list[Track]:
    """Tracks of one kind and temperature."""
    return [t for t in tracks if (t.temperature, t.kind) == (temperature, kind)]


def cells(tracks: Sequence[Track]) -> list[tuple[float, str]]:
    return sorted({(t.temperature, t.kind) for t in tracks})


class Clairvoyant(Replay):
    """The proposal that the target agrees with longest: what no choice of one can beat."""

    def _vote(self, seat: Seat, length: int) -> None:
        super()._vote(seat, length)
        coming = seat.coming
        longest = max(seat.opinions, key=lambda o: common_length(o.tokens, coming), default=None)
        seat.draft = list(longest.tokens) if longest else []
        seat.survival = [1.0] * len(seat.draft)


class Asking(Replay):
    """Whose opinions are asked for: all, lookup or needed (services/verifier/drafting.py), with
    the default vote and lengths."""

    def __init__(self, costs: Costs, drafters: Drafters) -> None:
        super().__init__(Learned(), Useful(), costs)
        self._drafters = drafters
        self.num_computed = 0

    def _opinions(self, seat: Seat, length: int) -> Sequence[Opinion]:
        if self._drafters == "lookup":
            seat.computes = False
        opinions = super()._opinions(seat, length)
        self.num_computed += seat.computes
        return [o for o in opinions if seat.computes or o.drafter in LOOKUPS]

    def _learn(self, seat: Seat) -> None:
        super()._learn(seat)
        agreed = (common_length(o.tokens, seat.emitted)
                  for o in seat.opinions if o.drafter in LOOKUPS)  # fmt: skip
        is_sampled = seat.here.track.temperature > 0
        suffices = lookup_suffices(max(agreed, default=0), len(seat.emitted) - 1, is_sampled)
        seat.computes = not (self._drafters == "needed" and suffices)


def asking(tracks: Sequence[Track]) -> Table:
    """Milliseconds a token by who is asked, and the share of drafted rounds in which models compute
    although they do so as needed alone."""
    rows: list[dict[str, Value]] = []
    for temperature, kind in cells(tracks):
        requests = [whole(track) for track in of(tracks, temperature, kind)]
        for name, (costs, at_a_time) in SETTINGS.items():
            replays = {who: Asking(costs, who) for who in WHO}
            found = {who: replay.run(requests, at_a_time) for who, replay in replays.items()}
            drafted = replays["all"].num_computed / found["all"].num_rounds
            computed = replays["needed"].num_computed / found["needed"].num_rounds
            rows.append(
                {"kind": kind, "temperature": temperature, "target, at a time": name,
                 **{f"ms a token, {who}": 1000 * r.seconds_per_token for who, r in found.items()},
                 "computed": computed / drafted}
            )  # fmt: skip
    return Table(rows)


def votes(tracks: Sequence[Track]) -> Table:
    """Tokens a round, one request at a time, all drafts verified whole."""
    drafters = sorted({o.drafter for t in tracks for at in t.opinions for o in at})
    rules: dict[str, Callable[[], Rule]] = {
        **{name: partial(Single, name) for name in drafters},
        "greedy walk": lambda: Weighted("greedy"),
        "heaviest path": lambda: Weighted("heaviest-path"),
        "learned": Learned,
    }
    rows: list[dict[str, Value]] = []
    for temperature, kind in cells(tracks):
        requests = [whole(track) for track in of(tracks, temperature, kind)]
        for length in LENGTHS:
            found = {
                name: Replay(rule(), Fixed(length), LARGE).run(requests, 1).tokens_per_round
                for name, rule in rules.items()
            }
            bound = Clairvoyant(Learned(), Fixed(length), LARGE).run(requests, 1).tokens_per_round
            rows.append(
                {"kind": kind, "temperature": temperature, "length": length, **found,
                 "learned over best single": found["learned"] / max(found[n] for n in drafters),
                 "best of each round": bound}
            )  # fmt: skip
    return Table(rows)


def trees(tracks: Sequence[Track]) -> Table:
    """With the default policy: how often a branch is tried and right, and the change of seconds a
    token in percent, with the best worth of each width in hindsight; by the rule that nothing of
    a side branch is emitted, and without it."""
    rows: list[dict[str, Value]] = []
    for temperature, kind in cells(tracks):
        requests = [whole(track) for track in of(tracks, temperature, kind)]
        for name, (costs, at_a_time) in SETTINGS.items():
            chain = Replay(Learned(), Useful(), costs).run(requests, at_a_time)
            for width in WIDTHS:
                row: dict[str, Value] = {
                    "kind": kind, "temperature": temperature, "target, at a time": name,
                    "width": width, "tokens a round": chain.tokens_per_round,
                }  # fmt: skip
                for emits, label in ((False, "by the rule"), (True, "if emitted")):
                    tried = []
                    for worth in WORTHS:
                        tree = TreeReplay(Useful(), costs, width, worth, emits)
                        result = tree.run(requests, at_a_time)
                        change = result.seconds_per_token / chain.seconds_per_token - 1
                        tried.append((100 * change, worth, tree.branches))
                    change, worth, seen = min(tried, key=lambda t: t[0])
                    if not emits:
                        row |= {
                            "worth": worth,
                            "split": seen.num_split / seen.num_rounds,
                            "tried": seen.num_tried / seen.num_rounds,
                            "right": seen.num_right / seen.num_rounds,
                            "known tokens": seen.num_known / seen.num_rounds,
                        }
                    row[f"seconds {label}, %"] = change
                rows.append(row)
    return Table(rows)


def noise(path: Path) -> Table:
    """Of shared noise and of the likeliest token: the share of first tokens that are right, and the
    mean number of right ones of NOISE_LENGTH, at every position of the target's text."""
    with np.load(path, allow_pickle=False) as file:
        drawings, drafters = file["drawings"].tolist(), file["drafters"].tolist()
        kinds, temperatures, agreed = file["kinds"], file["temperatures"], file["agreed"]
    rows: list[dict[str, Value]] = []
    for temperature in sorted(set(temperatures.tolist())):
        for kind in sorted(set(kinds.tolist())):
            chosen = (temperatures == temperature) & (kinds == kind)
            for number, drafter in enumerate(drafters):
                row: dict[str, Value] = {
                    "kind": kind, "temperature": temperature, "drafter": drafter,
                }  # fmt: skip
                for place, drawing in enumerate(drawings):
                    right = agreed[place, number, chosen]
                    row[f"first right, {drawing}"] = float((right > 0).mean())
                    row[f"of {NOISE_LENGTH}, {drawing}"] = float(
                        np.minimum(right, NOISE_LENGTH).mean()
                    )
                rows.append(row)
    return Table(rows)
