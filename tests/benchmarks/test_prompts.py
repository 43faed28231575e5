"""The benchmark's prompts: enough of each kind, and what they promise."""

from __future__ import annotations

import re

import pytest
from tokenizers import Tokenizer

from benchmarks.prompts import KINDS, NUM_TOKENS, TOKENIZER, prompts
from models.train.corpus import library_files

COUNT = 64


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TOKENIZER))


def decode(tokenizer: Tokenizer, prompt: list[int]) -> str:
    return tokenizer.decode(prompt, skip_special_tokens=False)


@pytest.mark.parametrize("kind", KINDS)
def test_there_are_enough_of_one_length_and_no_two_are_the_same(
    kind: str, tokenizer: Tokenizer
) -> None:
    found = prompts(kind, COUNT)
    assert len({tuple(prompt) for prompt in found}) == COUNT
    assert {len(prompt) for prompt in found} == {NUM_TOKENS}
    assert all(0 <= token < tokenizer.get_vocab_size() for prompt in found for token in prompt)


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_are_the_first_of_more(kind: str) -> None:
    assert prompts(kind, 3) == prompts(kind, COUNT)[:3]


def test_a_caller_may_change_what_it_got() -> None:
    prompts("code", 1)[0].clear()
    assert len(prompts("code", 1)[0]) == NUM_TOKENS


def test_code_begins_where_held_out_functions_begin(tokenizer: Tokenizer) -> None:
    held_out = [file.text for file in library_files() if file.is_held_out]
    for prompt in prompts("code", 8):
        text = decode(tokenizer, prompt)
        assert re.match(r"\s*def \w+\(", text)
        # The last token may be a part of a character.
        assert any(text[:-1] in file for file in held_out)


def test_prose_is_of_chats_and_of_docstrings(tokenizer: Tokenizer) -> None:
    texts = [decode(tokenizer, prompt) for prompt in prompts("prose", COUNT)]
    chats = [text for text in texts if text.startswith("<|im_start|>user\nWhat does ")]
    assert COUNT / 4 < len(chats) < 3 * COUNT / 4


def test_edits_end_with_the_head_of_a_copy_of_what_they_show(tokenizer: Tokenizer) -> None:
    for prompt in prompts("edits", COUNT):
        text = decode(tokenizer, prompt)
        head = text.rstrip("\n").rpartition("\n")[2]
        assert "_copy(" in head
        assert head.replace("_copy(", "(") + "\n" in text


def test_more_than_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="100000 prompts of kind 'edits' are asked for, "):
        prompts("edits", 100_000)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of code, prose, edits"):
        prompts("poems", 1)
