"""What a request may ask for beside its text changes under speculation as little as the text:
grammars, minimum lengths, log probabilities, and how it is drafted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.verifier.acceptance import Rules
from services.verifier.grammar import Grammars, Matcher
from services.verifier.logprobs import logprobs
from shared.config import BusConfig
from shared.generation import Grammar, Logprobs, Sampling, Steering
from shared.lm.decoder import Decoder, Row, load_decoder
from shared.lm.sampling import Place, draw
from tests.system import Answer
from tests.test_lossless import Case, Family, system
from tests.toy import END, VOCAB_SIZE, write_toy, write_toy_tokenizer

NUM_TOKENS, NUM_TOP = 20, 5
GRAMMARS = [
    Grammar("regex", "[a-f]{4}(foo|bar[0-9]+)!", "structured_outputs"),
    Grammar("choice", json.dumps(["abracadabra", "abrasive", "zebra"]), "structured_outputs"),
    Grammar("lark", 'start: "<<" word ("," word)* ">>"\nword: /[A-Z]{2,5}/', "structured_outputs"),
    Grammar("json", json.dumps({"enum": ["a{b}c", 17, 171]}), "response_format"),
]
CASES = [
    Case("all drafters"),
    Case("no drafter", drafters="", min_acceptance=1.0),
    Case("whatever pays", voter={}, verifier={"drafting": "auto"}, min_acceptance=1.0),
    Case("two lanes", verifier={"drafting": "lanes"}),
    Case("one at a time", verifier={"max_batch": 1}),
]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp("options")
    write_toy(folder / "target")
    write_toy(folder / "small", noise=0.08)
    write_toy(folder / "wide", noise=0.05)
    write_toy_tokenizer(folder / "target")
    rng = np.random.default_rng(3)
    prompts = [rng.integers(2, VOCAB_SIZE, rng.integers(1, 40)).tolist() for _ in range(36)]
    samplings = [Sampling(temperature=t, seed=n) for n, t in enumerate([0.0, 0.8, 1.0] * 12)]
    return Family(folder, prompts, [], samplings)


def grammar_of(number: int) -> Grammar | None:
    """Every third request has none."""
    return GRAMMARS[number % len(GRAMMARS)] if number % 3 else None


def matcher_of(folder: Path, grammar: Grammar | None) -> Matcher | None:
    return Grammars(folder, VOCAB_SIZE, [END]).read(grammar) if grammar else None


def write_plainly(
    decoder: Decoder,
    prompt: Sequence[int],
    sampling: Sampling,
    matcher: Matcher | None,
    min_tokens: int,
) -> tuple[list[int], list[Logprobs]]:
    """The reference: one token a pass, one request alone."""
    tokens, told, num_cached = list(prompt), [], 0
    while len(tokens) < len(prompt) + NUM_TOKENS:
        (logits,) = decoder.forward([Row(0, num_cached, tokens[num_cached:], 1)])
        num_cached = len(tokens)
        rules = Rules([END], min_tokens, matcher.allowed([]) if matcher else ())
        place = Place(sampling, tokens, len(tokens), len(prompt))
        allowed, banned = rules.at(0, len(tokens) - len(prompt))
        token = int(draw(logits[-1:], [replace(place, allowed=allowed, banned=banned)])[0])
        told += logprobs(logits[-1:], [token], NUM_TOP)
        tokens.append(token)
        if token == END:
            break
        if matcher is not None:
            matcher.advance(token)
            if matcher.is_complete:
                break
    return tokens[len(prompt) :], told


def told_of(decoder: Decoder, prompt: list[int]) -> list[Logprobs]:
    """What one pass over the prompt alone tells of it."""
    (logits,) = decoder.forward([Row(0, 0, prompt, len(prompt))])
    return logprobs(logits, prompt[1:], NUM_TOP)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_options_change_nothing_under_speculation(family: Family, case: Case) -> None:
    decoder = load_decoder(family.folder / "target", max_slots=1, num_threads=1)
    config = BusConfig(key_prefix="options")
    async with system(family, case, config) as client_of, client_of().connected() as client:

        async def ask(number: int) -> Answer:
            _, answer = await client.submit(
                family.prompts[number],
                NUM_TOKENS,
                family.samplings[number],
                [END],
                grammar=grammar_of(number),
                min_tokens=number % 4 * 3,
                num_logprobs=NUM_TOP,
                num_prompt_logprobs=NUM_TOP if number % 2 else None,
                is_traced=True,
            )
            await client.ending(answer)
            return answer

        answers = await asyncio.gather(*(ask(n) for n in range(len(family.prompts))))
    for number, answer in enumerate(answers):
        grammar = grammar_of(number)
        matcher = matcher_of(family.folder / "target", grammar)
        tokens, told = write_plainly(
            decoder,
            family.prompts[number],
            family.samplings[number],
            matcher,
            number % 4 * 3,
        )
        assert answer.tokens == tokens, (number, grammar)
        assert answer.logprobs == told
        assert answer.prompt_logprobs == (
            told_of(decoder, family.prompts[number]) if number % 2 else []
        )
        check_rounds(answer)
        text = "".join(chr(token + 0x1F) for token in tokens if token > END)
        if grammar is not None and grammar.kind == "choice":
            assert any(choice.startswith(text) for choice in json.loads(grammar.text)), text
    rounds = [r for a in answers for r in a.rounds]
    assert 1 + sum(r.num_accepted for r in rounds) / len(rounds) >= case.min_acceptance
    # What a grammar forces is drafted even where nobody drafts.
    assert any(vote.drafter == "grammar" for r in rounds for vote in r.votes)


def check_rounds(answer: Answer) -> None:
    """The rounds are all there, in order, and tell of just the tokens of the answer."""
    (end,) = answer.terminals
    assert [r.index for r in answer.rounds] == list(range(len(answer.rounds)))
    place = 0
    for r, (num_drafted, num_accepted) in zip(answer.rounds, end.report.per_round, strict=True):
        assert (r.offset, len(r.draft), r.num_accepted) == (place, num_drafted, num_accepted)
        emitted = answer.tokens[place : place + r.num_emitted]
        assert emitted[:num_accepted] == r.draft[:num_accepted]
        assert r.started_s >= 0
        assert r.num_running >= 1
        place += r.num_emitted
    assert place == len(answer.tokens)


@pytest.mark.parametrize(
    ("steering", "drafters", "lengths"),
    [
        (Steering(length=0), set(), {0}),
        (Steering(length=3), {"small", "wide", "ngram", "suffix"}, {3}),
        (Steering(length=2, drafters=["small"]), {"small"}, {2}),
        (Steering(max_length=1, drafters=["wide"]), {"wide"}, {0, 1}),
        (Steering(length=4, vote="greedy"), {"small", "wide", "ngram", "suffix"}, {4}),
    ],
    ids=["off", "fixed", "one drafter", "at most 1", "greedy vote"],
)
async def test_a_request_says_how_it_is_drafted(
    family: Family, steering: Steering, drafters: set[str], lengths: set[int]
) -> None:
    decoder = load_decoder(family.folder / "target", max_slots=1, num_threads=1)
    case = Case("steered", voter={}, verifier={"drafting": "all"})
    config = BusConfig(key_prefix="steered")
    async with system(family, case, config) as client_of, client_of().connected() as client:
        for number in range(6):
            prompt, sampling = family.prompts[number], family.samplings[number]
            _, answer = await client.submit(
                prompt, NUM_TOKENS, sampling, [END], steering=steering, is_traced=True
            )
            await client.ending(answer)
            assert answer.tokens == write_plainly(decoder, prompt, sampling, None, 0)[0]
            # The last rounds have fewer tokens left to draft.
            early = [r for r in answer.rounds if r.offset + 6 < NUM_TOKENS]
            assert {r.length for r in early} <= lengths
            assert {v.drafter for r in answer.rounds for v in r.votes} <= drafters
            assert all(len(r.draft) <= max(lengths) for r in answer.rounds)
            if steering.length:
                assert any(len(r.draft) == steering.length for r in early)
