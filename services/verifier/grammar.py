"""Grammars: what a text must be, as sets of tokens that may come next (llguidance).

The verifier draws only what a request's grammar allows; drafts are cut where they leave it, and go
on by themselves where it leaves no choice. The vocabulary's texts are read from the model folder's
tokenizer when the first grammar comes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import llguidance
import numpy as np

from shared.errors import InvalidRequestError, ModelError
from shared.generation import Grammar
from shared.lm.sampling import BoolArray
from shared.messages import Draft, Vote
from shared.wire import replace

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

NAME = "grammar"
"""Of its votes."""
_LIKELY = 0.9
KINDS = ("json", "regex", "choice", "lark")
# Compact: a small model may go on with blank lines for ever where it may.
_JSON_OPTIONS: JsonCompileOptions = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}


class Matcher:
    """One text on its way through a grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    @property
    def is_complete(self) -> bool:
        """Nothing can follow."""
        return self._matcher.is_stopped()

    @property
    def failure(self) -> str | None:
        """Why the text cannot go on, where the grammar has grown beyond what can be held."""
        return _short(self._matcher.get_error()) if self._matcher.is_error() else None

    def forced(self) -> list[int]:
        """The tokens that must come next, as far as the grammar leaves no choice."""
        return [] if self.is_complete else list(self._matcher.compute_ff_tokens())

    def followed(self, draft: Sequence[int]) -> tuple[int, list[int]]:
        """How many tokens of a draft the grammar allows, and what it forces behind them."""
        num_valid = self._matcher.try_consume_tokens(list(draft))
        forced = self.forced()
        self._matcher.rollback(num_valid)
        return num_valid, forced

    def allowed(self, draft: Sequence[int]) -> list[BoolArray]:
        """At each place of a draft that the grammar allows, and behind it: the tokens [V] that may
        be drawn."""
        masks = [self._mask()]
        num_consumed = 0
        for token in draft:
            if self._matcher.try_consume_tokens([token]):
                num_consumed += 1
            masks.append(self._mask())
        self._matcher.rollback(num_consumed)
        return masks

    def advance(self, token: int) -> None:
        """Takes in a token that was drawn."""
        self._matcher.consume_token(token)

    def _mask(self) -> BoolArray:
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        return np.unpackbits(bits, count=self._vocab_size, bitorder="little").astype(np.bool_)


def within(matcher: Matcher, draft: Draft, length: int) -> Draft:
    """A draft as far as its request's grammar allows it, and on as far as that leaves no choice:
    `length` tokens in all. The grammar's part counts as a vote of its own."""
    num_valid, forced = matcher.followed(draft.tokens)
    own = forced[: max(0, length - num_valid)]
    is_whole = bool(draft.tokens) and not draft.survival
    survival = draft.survival[:num_valid]
    # Forced is the text, not how it is cut into tokens: the target may have a way of its own.
    likely = [] if is_whole else [*survival, *[(survival or [_LIKELY])[-1]] * len(own)]
    tokens = [*draft.tokens[:num_valid], *own]
    votes = [*draft.votes, Vote(NAME, tokens, 0, 1.0, True)] if own else draft.votes
    return replace(draft, tokens=tokens, survival=likely, votes=votes)


class Grammars:
    """Reads grammars for one target model."""

    def __init__(self, folder: Path, vocab_size: int, eos_tokens: Sequence[int]) -> None:
        self._folder = folder
        self._vocab_size = vocab_size
        self._eos_tokens = list(eos_tokens)

    def read(self, grammar: Grammar) -> Matcher:
        """At the beginning of a text; may take a second for one that is large. Raises
        InvalidRequestError for what is no grammar, ModelError where the folder has no tokenizer."""
        text = _grammar(grammar)
        is_wrong, said = llguidance.LLMatcher.validate_grammar_with_warnings(text, self._tokenizer)
        if is_wrong:
            raise _refused(grammar, said[0])
        matcher = llguidance.LLMatcher(self._tokenizer, text, log_level=0)
        if matcher.is_error():
            raise _refused(grammar, matcher.get_error())
        return Matcher(matcher, self._vocab_size)

    @cached_property
    def _tokenizer(self) -> llguidance.LLTokenizer:
        file = self._folder / "tokenizer.json"
        if not file.is_file():
            raise ModelError(f"{self._folder} has no tokenizer.json, so it can follow no grammar")
        return llguidance.LLTokenizer(
            str(file), n_vocab=self._vocab_size, eos_token=self._eos_tokens
        )


def _grammar(grammar: Grammar) -> str:
    """As llguidance writes it."""
    matcher = llguidance.LLMatcher
    try:
        if grammar.kind == "json":
            return matcher.grammar_from_json_schema(grammar.text, overrides=_JSON_OPTIONS)
        if grammar.kind == "regex":
            return matcher.grammar_from_regex(grammar.text)
        if grammar.kind == "choice":
            choices = " | ".join(json.dumps(str(choice)) for choice in json.loads(grammar.text))
            return matcher.grammar_from_lark(f"start: {choices}")
    except (ValueError, TypeError) as error:
        raise _refused(grammar, str(error)) from error
    if grammar.kind == "lark":
        return matcher.grammar_from_lark(grammar.text)
    raise _refused(grammar, f"no kind {grammar.kind!r}; there are {', '.join(KINDS)}")


def _refused(grammar: Grammar, fault: str) -> InvalidRequestError:
    return InvalidRequestError(f"{grammar.source}: {_short(fault)}", grammar.source)


def _short(fault: str) -> str:
    """A fault's first line, no longer than one can read."""
    return fault.strip().splitlines()[0][:300] if fault.strip() else "cannot be followed"
