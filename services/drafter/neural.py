"""A small decoder as a draft model: many requests, one batch, rewinding KV caches.

Behind the context of each request the model keeps the path that it has drafted. New context that
follows the path moves along it, so that its rest is there already; any other begins a new path (a
rewind of the cache is a smaller start, nothing else). Tokens are drawn with the target's own
random numbers (shared/lm/sampling.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.drafter.model import NOTHING, Proposed, Steps, Want
from services.drafter.passes import Passes
from shared.generation import Sampling
from shared.lm.decoder import Row
from shared.lm.sampling import Place
from shared.tokens import common_length

SUREST = 99.0
"""Largest margin told: a token that is the only one left has an infinite one."""
JOINT_TOKENS = 16
"""New context up to this many tokens goes along in the first pass of a proposal."""


@dataclass(slots=True)
class State:
    """One request: its context, the path drafted behind it, and the tokens whose keys and values
    are in its cache slot."""

    slot: int
    num_prompt_tokens: int
    context: list[int] = field(default_factory=list)
    path: list[int] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    sampling: Sampling = field(default_factory=Sampling)
    goal: int = 0
    """Length that the path is to have before it is asked for again."""
    cached: list[int] = field(default_factory=list)
    num_valid: int = 0
    """Leading tokens of `cached` that are those of context and path; at least one token, the last,
    is not among them."""

    def extend(self, start: int, tokens: Sequence[int]) -> None:
        path = self.path if start == len(self.context) else []
        num_right = common_length(path, tokens)
        del self.context[start:]
        self.context += tokens
        if num_right == len(tokens):
            del self.path[:num_right], self.margins[:num_right]
            return
        self.drop_path()
        self.num_valid = min(self.num_valid, start, len(self.cached))
        limit = min(len(self.cached), len(self.context) - 1)
        while (
            self.num_valid < limit and self.cached[self.num_valid] == self.context[self.num_valid]
        ):
            self.num_valid += 1
        self.num_valid = min(self.num_valid, len(self.context) - 1)

    def drop_path(self) -> None:
        self.path, self.margins = [], []
        self.num_valid = min(self.num_valid, len(self.context) - 1)

    def uncached(self) -> list[int]:
        """What is to go through the model before the next token of the path can be drawn."""
        in_path = self.num_valid - len(self.context)
        return self.path[in_path:] if in_path >= 0 else self.context[self.num_valid :] + self.path

    def cache(self, tokens: Sequence[int]) -> None:
        """They went through the model."""
        self.cached[self.num_valid :] = tokens
        self.num_valid += len(tokens)

    def place(self) -> Place:
        """Of the next token of the path."""
        # Only penalties ask for the tokens themselves.
        tokens = [*self.context, *self.path] if self.sampling.is_penalized else ()
        position = len(self.context) + len(self.path)
        return Place(self.sampling, tokens, position, self.num_prompt_tokens)


class NeuralModel:
    """A DraftModel over passes of a decoder, of whose slots each known request holds one."""

    kind = "neural"

    def __init__(self, passes: Passes, prefill_tokens: int) -> None:
        self._passes = passes
        self._prefill_tokens = prefill_tokens
        self._states: OrderedDict[str, State] = OrderedDict()
        self._free = sorted(range(passes.max_slots), reverse=True)

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

    def propose(self, wants: Sequence[Want]) -> Steps[list[Proposed]]:
        """Drafts for all requests in step, as many tokens of each at once as the shortest lacks."""
        # More requests may have come in at once than there are slots: the evicted propose nothing.
        lengths = {w.request_id: self._aim(w) for w in wants if w.request_id in self._states}
        states = {name: self._states[name] for name in lengths}
        num_ready = {name: min(len(states[name].path), lengths[name]) for name in lengths}
        self._prefill([state for name, state in states.items() if lengths[name]])
        while missing := {
            name: lengths[name] - len(state.path)
            for name, state in states.items()
            if len(state.path) < lengths[name]
        }:
            self._step([states[name] for name in missing], min(missing.values()))
            yield
        for want in wants:
            if want.ahead and lengths.get(want.request_id):
                # As if all were accepted, and the model's own next token were the target's.
                self._states[want.request_id].goal = 2 * lengths[want.request_id] + 1
        found = {
            name: Proposed(state.path[:length], state.margins[:length], num_ready[name])
            for (name, state), length in zip(states.items(), lengths.values(), strict=True)
        }
        return [found.get(want.request_id, NOTHING) for want in wants]

    def draft_ahead(self, is_asked: Callable[[], bool]) -> int:
        num_drafted = 0
        while not is_asked():
            short = [s for s in self._states.values() if len(s.path) < min(s.goal, self._room(s))]
            if not short:
                break
            num_drafted += self._step(short) * len(short)
        return num_drafted

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

    def _aim(self, want: Want) -> int:
        """The length of the proposal. Until it is there, nothing is drafted ahead."""
        state = self._states[want.request_id]
        if want.sampling != state.sampling:
            state.drop_path()
            state.sampling = want.sampling
        length = max(0, min(want.speculation_length, self._room(state)))
        state.goal = 0
        return length

    def _room(self, state: State) -> int:
        """Tokens that a path may have within the model's context."""
        return self._passes.manifest.max_context - len(state.context) + 1

    def _prefill(self, states: Sequence[State]) -> None:
        """Brings long new contexts into the cache, each alone: joined, their passes would be
        padded to the longest."""
        for state in states:
            while (missing := len(state.uncached()) - 1) > JOINT_TOKENS:
                end = state.num_valid + min(missing, self._prefill_tokens)
                tokens = state.context[state.num_valid : end]
                self._passes.read([Row(state.slot, state.num_valid, tokens, 0)])
                state.cache(tokens)

    def _step(self, states: Sequence[State], count: int = 1) -> int:
        """So many more tokens for each path, or fewer, but as many for each: how many."""
        rows = [Row(state.slot, state.num_valid, state.uncached(), 1) for state in states]
        drawn = self._passes.draw(rows, [state.place() for state in states], count)
        for state, row, own in zip(states, rows, drawn, strict=True):
            state.cache([*row.tokens, *own.tokens[:-1]])
            state.path += own.tokens
            state.margins += [min(margin, SUREST) for margin in own.margins]
        return len(drawn[0].tokens)
