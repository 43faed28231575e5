"""Tokens between vocabularies: the text is the same, whatever the chunks, characters and kinds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.drafter.model import NOTHING, Proposed
from services.drafter.translation import (
    OVERLAP,
    REPLACEMENT,
    WINDOW,
    Encoded,
    Pair,
    TokenStream,
    Translation,
    Vocabulary,
)
from services.drafter.vocabulary import FolderVocabulary, make_pair
from shared.errors import ModelError
from tests.vocabularies import TEXTS, kinds, write_vocabulary

END = "<|im_end|>"
KINDS = ("bytes", "small", "large", "pieces")
DIRECTIONS = list(permutations(KINDS, 2))
CHARACTERS = st.characters(codec="utf-8")
WORDS = st.sampled_from([" ", "  ", "\n", "\n\n    ", *" ".join(TEXTS).split(" "), "🎉", "é", END])
TEXT = st.one_of(
    st.text(CHARACTERS, max_size=60),
    st.lists(WORDS, max_size=40).map("".join),
    st.lists(WORDS, max_size=40).map(" ".join),
)
CUTS = st.lists(st.integers(1, 9), max_size=30)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Pair]:
    """Of each target and each other one as a draft model."""
    root = tmp_path_factory.mktemp("vocabularies")
    folders = {
        name: write_vocabulary(root / name, tokenizer, [tokenizer.token_to_id(END)])
        for name, tokenizer in kinds().items()
    }
    found = {names: make_pair(*(folders[n] for n in names)) for names in DIRECTIONS}
    return {names: pair for names, pair in found.items() if pair is not None}


def chunked(tokens: Sequence[int], cuts: Sequence[int]) -> list[list[int]]:
    """The tokens in pieces of these lengths; the last takes the rest."""
    places = [0]
    for cut in cuts:
        places.append(min(len(tokens), places[-1] + cut))
    return [list(tokens[a:b]) for a, b in pairwise([*places, len(tokens)])]


def translated(pair: Pair, chunks: Sequence[Sequence[int]]) -> Translation:
    translation = Translation(pair)
    for chunk in chunks:
        translation.extend(len(translation.given), chunk)
    return translation


def own_text(pair: Pair, own: Sequence[int]) -> str:
    return pair.own.decode(own[len(pair.prefix) :])


@pytest.mark.parametrize("names", DIRECTIONS, ids="-".join)
@given(text=TEXT, cuts=CUTS)
def test_the_own_tokens_say_what_the_targets_say(
    pairs: dict[tuple[str, str], Pair], names: tuple[str, str], text: str, cuts: list[int]
) -> None:
    pair = pairs[names]
    tokens = pair.target.encode(text).tokens
    translation = translated(pair, chunked(tokens, cuts))
    assert translation.given == tokens
    assert translation.own[: len(pair.prefix)] == list(pair.prefix)
    # Pieces begin with a space that their decoder takes away again.
    assert own_text(pair, translation.own) == pair.target.decode(tokens) == text


@pytest.mark.parametrize("names", DIRECTIONS, ids="-".join)
@given(tokens=st.lists(st.integers(0, 257), max_size=60), cuts=CUTS, data=st.data())
def test_any_tokens_in_any_chunks_are_taken_and_a_rewind_forgets_what_came_after(
    pairs: dict[tuple[str, str], Pair],
    names: tuple[str, str],
    tokens: list[int],
    cuts: list[int],
    data: st.DataObject,
) -> None:
    """Bytes that are no characters, and markers, among them."""
    pair = pairs[names]
    translation = translated(pair, chunked(tokens, cuts))
    start = data.draw(st.integers(0, len(tokens)))
    again = data.draw(st.lists(st.integers(0, 257), max_size=20))
    translation.extend(start, again)
    whole = [*tokens[:start], *again]
    if start < len(tokens) and whole[: len(tokens)] != tokens:
        assert translation.own == translated(pair, [whole]).own
    assert translation.given == whole
    proposal = translation.back(Proposed(again, [1.0] * len(again), len(again) // 2), 5)
    assert len(proposal.margins) == len(proposal.tokens) <= 5
    assert 0 <= proposal.num_ready <= len(proposal.tokens)


@pytest.mark.parametrize("names", DIRECTIONS, ids="-".join)
@given(before=TEXT, after=TEXT, num_back=st.integers(0, 6))
def test_a_proposal_continues_the_targets_own_text(
    pairs: dict[tuple[str, str], Pair],
    names: tuple[str, str],
    before: str,
    after: str,
    num_back: int,
) -> None:
    """A draft model that knows what follows: each token of its proposal is right, but for the last
    that its text ends within. The target may be in the middle of a word or of a character."""
    pair = pairs[names]
    tokens = pair.target.encode(before + after).tokens
    known = max(0, len(pair.target.encode(before).tokens) - num_back)
    translation = translated(pair, [tokens[:known]])
    own = pair.own.encode(before + after).tokens
    context = translation.own[len(pair.prefix) :]
    if own[: len(context)] != context:
        return  # it would have to write the same text in other tokens
    proposal = [*own[len(context) :]]
    margins = [float(number) for number in range(1, len(proposal) + 1)]
    found = translation.back(Proposed(proposal, margins), 10**6)
    written = pair.target.decode([*tokens[:known], *found.tokens])
    assert (before + after).startswith(written) or found == NOTHING
    if found.tokens:
        # A replacement character at the very end might be half of another.
        assert written.rstrip(REPLACEMENT) == (before + after).rstrip(REPLACEMENT)
        assert found.margins[-1] == 0.0
        assert found.margins[:-1] == sorted(found.margins[:-1])


@pytest.mark.parametrize("names", DIRECTIONS, ids="-".join)
def test_a_long_text_comes_out_as_if_it_had_been_encoded_at_once(
    pairs: dict[tuple[str, str], Pair], names: tuple[str, str]
) -> None:
    pair = pairs[names]
    text = "".join(TEXTS) * 8
    tokens = pair.target.encode(text).tokens
    translation = translated(pair, chunked(tokens, [3] * len(tokens)))
    assert translation.own[len(pair.prefix) :] == pair.own.encode(text).tokens


class Counting:
    """A vocabulary that remembers how much it was given to encode."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.decode = vocabulary.decode
        self._encode = vocabulary.encode
        self.lengths: list[int] = []

    def encode(self, text: str) -> Encoded:
        self.lengths.append(len(text))
        return self._encode(text)


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_long_text_only_the_end_is_encoded_again(
    pairs: dict[tuple[str, str], Pair], kind: str
) -> None:
    own = next(pair.own for names, pair in pairs.items() if names[1] == kind)
    counting = Counting(own)
    stream = TokenStream(counting)
    text = "".join(TEXTS) * 8
    for end in range(0, len(text) + 1, 7):
        stream.update(text[:end])
    assert max(counting.lengths) < WINDOW + 2 * OVERLAP < len(text) / 3
    assert stream.tokens == own.encode(text[:end]).tokens


def test_markers_are_mapped_by_name_and_ends_of_text_by_what_they_do(tmp_path: Path) -> None:
    small, pieces = kinds()["small"], kinds()["pieces"]
    ids = {name: [t.token_to_id(name) for t in (small, pieces)] for name in (END, "<s>")}
    only_small, only_pieces = small.token_to_id("<|small|>"), pieces.token_to_id("<|pieces|>")
    target = write_vocabulary(tmp_path / "target", small, [only_small])
    own = write_vocabulary(tmp_path / "own", pieces, [only_pieces])
    pair = make_pair(target, own)
    assert pair is not None
    assert pair.prefix == [ids["<s>"][1]]
    assert pair.markers == {ids[END][0]: ids[END][1], only_small: only_pieces}
    assert pair.own_markers[only_pieces] == only_small
    assert pair.own_markers[ids["<s>"][1]] is None
    # The text of a marker is text where it is one in the target.
    hello, end = pair.target.encode("hello").tokens, ids[END][0]
    spelt = pair.target.encode(END).tokens
    assert len(spelt) > 5
    for between, wanted in (([end], [ids[END][1]]), (spelt, pair.own.encode(END).tokens[1:])):
        translation = translated(pair, [[*hello, *between]])
        assert translation.own[-len(wanted) :] == wanted
    you = pair.own.encode("hello you").tokens[len(pair.own.encode("hello").tokens) :]
    proposed = Proposed([*you, only_pieces], [3.0] * (len(you) + 1))
    found = translated(pair, [hello]).back(proposed, 99)
    assert found.tokens == [*pair.target.encode("hello you").tokens[len(hello) :], only_small]
    assert found.margins == [3.0] * len(found.tokens)


def test_the_same_tokens_need_no_translation(tmp_path: Path) -> None:
    one, other = (write_vocabulary(tmp_path / n, kinds()["small"], [0]) for n in ("a", "b"))
    assert make_pair(one, other) is None


@pytest.mark.parametrize("fault", ["absent", "broken", "larger than the model"])
def test_a_tokenizer_that_cannot_be_used_is_named(tmp_path: Path, fault: str) -> None:
    folder = write_vocabulary(tmp_path / "own", kinds()["small"], [0])
    file = folder / "tokenizer.json"
    if fault == "absent":
        file.unlink()
    elif fault == "broken":
        file.write_text("{}")
    else:
        kinds()["large"].save(str(file))
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        FolderVocabulary(folder)
