"""A draft model with another tokenizer than the target's, as a DraftModel of the target's tokens.

It drafts greedily: the numbers that a target draws with belong to its own tokens, so that draws of
other tokens would agree with it less often than the likeliest ones do.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

from services.drafter.model import NOTHING, DraftModel, Proposed, Steps, Want
from services.drafter.translation import Pair, Translation
from shared.generation import Sampling
from shared.tokens import common_length

GREEDY = Sampling(temperature=0.0)


class TranslatedModel:
    """Translates for `model` (translation.py), which knows its own tokens alone."""

    def __init__(self, model: DraftModel, pair: Pair, max_requests: int) -> None:
        self.kind = model.kind
        self.draft_ahead: Callable[[Callable[[], bool]], int] = model.draft_ahead
        self._model = model
        self._pair = pair
        self._max_requests = max_requests
        self._translations: OrderedDict[str, Translation] = OrderedDict()

    def extend(
        self, request_id: str, start: int, tokens: Sequence[int], num_prompt_tokens: int
    ) -> bool:
        translation = self._translations.get(request_id)
        if translation is None or start > len(translation.given):
            if start > 0:
                return False
            translation = self._translations[request_id] = Translation(self._pair)
        self._translations.move_to_end(request_id)
        if len(self._translations) > self._max_requests:
            self.release(next(iter(self._translations)))
        before = list(translation.own)
        translation.extend(start, tokens)
        self._tell(request_id, before, translation.own)
        return True

    def propose(self, wants: Sequence[Want]) -> Steps[list[Proposed]]:
        known = [want for want in wants if want.request_id in self._translations]
        own = [
            replace(
                want,
                speculation_length=self._translations[want.request_id].num_own(
                    want.speculation_length
                ),
                sampling=GREEDY,
            )
            for want in known
        ]
        drafted = yield from self._model.propose(own)
        found = {
            want.request_id: self._translations[want.request_id].back(
                proposed, want.speculation_length
            )
            for want, proposed in zip(known, drafted, strict=True)
        }
        return [found.get(want.request_id, NOTHING) for want in wants]

    def release(self, request_id: str) -> None:
        self._translations.pop(request_id, None)
        self._model.release(request_id)

    def _tell(self, request_id: str, before: list[int], own: list[int]) -> None:
        """Brings the model from one own context to the next. The end of a context may change with
        what follows it."""
        is_new = len(before) <= len(self._pair.prefix)
        if not own or (before == own and not is_new):
            return
        # At least one token: the model's context ends where the last one told does.
        first = min(common_length(before, own), len(own) - 1)
        if not self._model.extend(request_id, first, own[first:], 0):
            self._model.extend(request_id, 0, own, 0)
