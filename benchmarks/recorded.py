"""What drafters would have proposed at every position of the target's own texts, in a small file.

The target's tokens do not depend on drafts, and what a drafter proposes depends on the tokens
before alone. So one record serves to replay any vote and any policy of lengths, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.voter.estimator import Opinion

Array = npt.NDArray[np.int16]

REACH = 12
"""Most tokens of a proposal."""
STEPS_PER_UNIT = 16
"""Margins are rounded down to steps of 1/16, of which the estimator's bins are multiples."""
_MOST_STEPS = 254
_NONE = -1
_AS_BEFORE = 0
"""Code of a token (and, 255, of a margin) that the proposal one position before had foretold."""


@dataclass(frozen=True, slots=True)
class Track:
    """One request: what the target wrote, and who would have proposed what at each position."""

    kind: str
    temperature: float
    tokens: list[int]
    opinions: list[list[Opinion]]
    """By position; of those drafters that proposed something, each up to REACH tokens."""
    _cut: dict[tuple[int, int], list[Opinion]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def asked(self, position: int, length: int) -> list[Opinion]:
        """What would have come back had so many tokens been asked for: proposals are drawn token
        by token, so a shorter one is the beginning of a longer one."""
        found = self._cut.get((position, length))
        if found is None:
            found = [
                Opinion(o.drafter, o.tokens[:length], o.margins[:length])
                for o in self.opinions[position]
                if length > 0
            ]
            self._cut[position, length] = found
        return found


def save(path: Path, tracks: Sequence[Track]) -> None:
    """Writes tracks of one length as compressed arrays."""
    drafters = sorted({o.drafter for t in tracks for at in t.opinions for o in at})
    shape = (len(drafters), len(tracks), len(tracks[0].tokens), REACH)
    tokens, margins = np.full(shape, _NONE, np.int16), np.zeros(shape, np.int16)
    for row, track in enumerate(tracks):
        for position, opinions in enumerate(track.opinions):
            for opinion in opinions:
                place = drafters.index(opinion.drafter), row, position
                tokens[place][: len(opinion.tokens)] = opinion.tokens
                steps = [int(margin * STEPS_PER_UNIT) for margin in opinion.margins]
                margins[place][: len(steps)] = np.clip(steps, 0, _MOST_STEPS)
    np.savez_compressed(
        path,
        drafters=np.array(drafters),
        kinds=np.array([track.kind for track in tracks]),
        temperatures=np.array([track.temperature for track in tracks]),
        targets=np.array([track.tokens for track in tracks], np.int16),
        tokens=_without_foretold(tokens, _AS_BEFORE - 2) + np.int16(2),
        margins=_without_foretold(margins, _MOST_STEPS + 1).astype(np.uint8),
    )


def load(path: Path) -> list[Track]:
    """Reads what `save` wrote. Raises OSError or ValueError for anything else."""
    with np.load(path, allow_pickle=False) as file:
        drafters, kinds = file["drafters"].tolist(), file["kinds"].tolist()
        temperatures, targets = file["temperatures"].tolist(), file["targets"].tolist()
        tokens = _with_foretold(file["tokens"] - np.int16(2), _AS_BEFORE - 2)
        margins = _with_foretold(file["margins"].astype(np.int16), _MOST_STEPS + 1)
    tracks = []
    for row, target in enumerate(targets):
        opinions: list[list[Opinion]] = [[] for _ in target]
        for name, own, sure in zip(drafters, tokens[:, row], margins[:, row], strict=True):
            for position, (proposed, steps) in enumerate(
                zip(own.tolist(), sure.tolist(), strict=True)
            ):
                length = proposed.index(_NONE) if _NONE in proposed else REACH
                if length:
                    found = [step / STEPS_PER_UNIT for step in steps[:length]]
                    opinions[position].append(Opinion(name, proposed[:length], found))
        tracks.append(Track(kinds[row], temperatures[row], target, opinions))
    return tracks


def _without_foretold(values: Array, code: int) -> Array:
    """`values` [..., position, place] with `code` for each that stood one position before, one
    place later: where a proposal was right, the next one is the rest of it and little more."""
    found = values.copy()
    same = values[..., 1:, :-1] == values[..., :-1, 1:]
    found[..., 1:, :-1][same] = code
    return found


def _with_foretold(values: Array, code: int) -> Array:
    """The inverse of `_without_foretold`."""
    found = values.copy()
    for position in range(1, values.shape[-2]):
        here = found[..., position, :-1]
        here[...] = np.where(here == code, found[..., position - 1, 1:], here)
    return found
