"""Weighted majority: proposals -> prefix tree -> the path that becomes the draft.

Pure. In the tree, shared prefixes are one node; a node's weight is the sum of the weights of the
drafters whose proposal passes through it (Minions, arXiv:2402.15678, majority-voted speculator).
Neither walk needs the tree built: a node is the set of proposals that share its path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from typing import Literal

from shared.tokens import common_length

Walk = Literal["greedy", "heaviest-path"]


@dataclass(frozen=True, slots=True)
class Ballot:
    """One drafter's proposal and the weight that it has; an empty one votes for nothing."""

    tokens: Sequence[int]
    weight: float


def merge(ballots: Sequence[Ballot], walk: Walk, max_length: int) -> list[int]:
    """The draft: at most `max_length` tokens, always a prefix of at least one ballot.

    `greedy` goes from the root to the heaviest child, level by level. `heaviest-path` takes the
    root-to-leaf path with the largest sum of node weights, which is the sum over the ballots of
    weight times tokens shared with the path. Equal weights are decided by the heaviest single
    ballot among them, then by the lowest token id, so the order of the ballots never matters.

    A walk ends where no surviving proposal goes on, and so at the end of the longest survivor:
    how many tokens pay is the length controller's decision, not the vote's.
    """
    if walk == "greedy":
        return _walk_greedily(ballots, max_length)
    return _find_heaviest_path([Ballot(b.tokens[:max_length], b.weight) for b in ballots])


def _walk_greedily(ballots: Sequence[Ballot], max_length: int) -> list[int]:
    path: list[int] = []
    survivors = list(ballots)
    while len(path) < max_length:
        children: dict[int, list[Ballot]] = {}
        for ballot in survivors:
            if len(ballot.tokens) > len(path):
                children.setdefault(ballot.tokens[len(path)], []).append(ballot)
        if not children:
            break
        token, survivors = max(children.items(), key=lambda child: _rank(*child))
        path.append(token)
    return path


def _rank(token: int, through: Sequence[Ballot]) -> tuple[float, float, int]:
    # fsum rounds once: a plain sum would depend on the order in which proposals arrived.
    weights = [ballot.weight for ballot in through]
    return fsum(weights), max(weights), -token


def _find_heaviest_path(ballots: Sequence[Ballot]) -> list[int]:
    def rank(path: list[int]) -> tuple[float, float, list[int]]:
        shared = [b.weight * common_length(b.tokens, path) for b in ballots]
        whole = [b.weight for b in ballots if common_length(b.tokens, path) == len(path)]
        return fsum(shared), max(whole), [-token for token in path]

    return max((list(ballot.tokens) for ballot in ballots), key=rank, default=[])
