"""A small ONNX decoder as a draft model: many requests, one batch, rewinding KV caches.

The cache of a request holds context and the last proposal; the next round keeps what of it turned
out right and overwrites the rest (a rewind is a smaller start, nothing else). Tokens are drawn
with the target's own random numbers (shared/lm/sampling.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from services.drafter.model import NOTHING, Proposed, Want
from shared.lm.decoder import Decoder, Row
from shared.lm.sampling import Place, draw_with_margins
from shared.messages import Sampling

SUREST = 99.0
"""Largest margin told: a token that is the only one left has an infinite one."""
JOINT_TOKENS = 16
"""New context up to this many tokens goes along in the first pass of a proposal."""


@dataclass(slots=True)
class State:
    """One request: its context, and the tokens whose keys and values are in its cache slot."""

    slot: int
    num_prompt_tokens: int
    context: list[int] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    num_valid: int = 0
    """Leading tokens of `cached` that are those of `context`; at most len(context) - 1."""

    def extend(self, start: int, tokens: Sequence[int]) -> None:
        del self.context[start:]
        self.context += tokens
        self.num_valid = min(self.num_valid, start, len(self.cached))
        limit = min(len(self.cached), len(self.context) - 1)
        while (
            self.num_valid < limit and self.cached[self.num_valid] == self.context[self.num_valid]
        ):
            self.num_valid += 1
        self.num_valid = min(self.num_valid, len(self.context) - 1)


@dataclass(slots=True)
class Drafting:
    """A proposal in the making."""

    state: State
    sampling: Sampling
    length: int
    tokens: list[int] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)

    def place(self) -> Place:
        """Of the next token."""
        context = self.state.context
        # Only penalties ask for the tokens themselves.
        tokens = [*context, *self.tokens] if self.sampling.is_penalized else ()
        position = len(context) + len(self.tokens)
        return Place(self.sampling, tokens, position, self.state.num_prompt_tokens)


class NeuralModel:
    """A DraftModel over a Decoder, of whose slots each known request holds one."""

    kind = "neural"

    def __init__(self, decoder: Decoder, prefill_tokens: int) -> None:
        self._decoder = decoder
        self._prefill_tokens = prefill_tokens
        self._states: OrderedDict[str, State] = OrderedDict()
        self._free = sorted(range(decoder.max_slots), reverse=True)

    def extend(
        self, request_id: str, start: int, tokens: Sequence[int], num_prompt_tokens: int
    ) -> bool:
        state = self._states.get(request_id)
        if state is None or start > len(state.context):
            if start > 0:
                return False
            state = self._admit(request_id, num_prompt_tokens)
        self._states.move_to_end(request_id)
        state.extend(start, tokens)
        return True

    def propose(self, wants: Sequence[Want]) -> list[Proposed]:
        """Drafts for all requests in step, one token of each a pass."""
        # More requests may have come in at once than there are slots: the evicted propose nothing.
        known = [want for want in wants if want.request_id in self._states]
        drafting = {want.request_id: self._start(want) for want in known}
        self._prefill([d.state for d in drafting.values() if d.length > 0])
        while unfinished := [d for d in drafting.values() if len(d.tokens) < d.length]:
            rows = [_next_row(d) for d in unfinished]
            logits = np.concatenate(self._decoder.forward(rows))
            tokens, margins = draw_with_margins(logits, [d.place() for d in unfinished])
            for d, row, token, margin in zip(unfinished, rows, tokens, margins, strict=True):
                d.state.cached[row.start :] = row.tokens
                d.tokens.append(int(token))
                d.margins.append(min(float(margin), SUREST))
        found = {name: Proposed(d.tokens, d.margins) for name, d in drafting.items()}
        return [found.get(want.request_id, NOTHING) for want in wants]

    def release(self, request_id: str) -> None:
        state = self._states.pop(request_id, None)
        if state is not None:
            # The lowest slots are used first: the decoder's passes span the slots in use.
            self._free = sorted([*self._free, state.slot], reverse=True)

    def _admit(self, request_id: str, num_prompt_tokens: int) -> State:
        self.release(request_id)
        if not self._free:
            self.release(next(iter(self._states)))
        state = State(self._free.pop(), num_prompt_tokens)
        self._states[request_id] = state
        return state

    def _start(self, want: Want) -> Drafting:
        state = self._states[want.request_id]
        room = self._decoder.manifest.max_context - len(state.context) + 1
        return Drafting(state, want.sampling, max(0, min(want.speculation_length, room)))

    def _prefill(self, states: Sequence[State]) -> None:
        """Brings long new contexts into the cache, each alone: joined, their passes would be
        padded to the longest."""
        for state in states:
            while (missing := len(state.context) - 1 - state.num_valid) > JOINT_TOKENS:
                end = state.num_valid + min(missing, self._prefill_tokens)
                tokens = state.context[state.num_valid : end]
                self._decoder.forward([Row(state.slot, state.num_valid, tokens, 0)])
                state.cached[state.num_valid :] = tokens
                state.num_valid = end


def _next_row(drafting: Drafting) -> Row:
    """The first pass of a proposal takes in new context; each later one its last token."""
    state = drafting.state
    if drafting.tokens:
        start = len(state.context) + len(drafting.tokens) - 1
        return Row(state.slot, start, drafting.tokens[-1:], 1)
    return Row(state.slot, state.num_valid, state.context[state.num_valid :], 1)
