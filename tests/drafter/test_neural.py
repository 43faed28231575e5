"""The neural draft model: rewinding its cache is as good as reading the context anew."""

from __future__ import annotations

from functools import partial
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.drafter.model import NOTHING, Want, finish
from services.drafter.neural import NeuralModel
from shared.generation import Sampling
from shared.lm.decoder import load_decoder
from tests.system import decode_plainly
from tests.toy import MAX_CONTEXT, VOCAB_SIZE, write_toy

GREEDY = Sampling(temperature=0.0)
WARM = Sampling(temperature=0.9, seed=3)
WARM_BIASED = Sampling(temperature=0.9, seed=3, repetition_penalty=1.2, logit_bias={5: 1.0})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy") / "small")


def build(folder: Path, max_requests: int = 4, prefill_tokens: int = 32) -> NeuralModel:
    decoder = load_decoder(folder, max_slots=max_requests, num_threads=1)
    return NeuralModel(decoder, prefill_tokens)


def tokens(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(2, VOCAB_SIZE, count).tolist()


def fresh(folder: Path, context: list[int], length: int, sampling: Sampling) -> list[int]:
    """What the model itself would write behind a prompt."""
    decoder = load_decoder(folder, max_slots=1, num_threads=1)
    return decode_plainly(decoder, context, length, sampling)


@settings(max_examples=30, deadline=None)
@given(
    prompt=st.integers(1, 60),
    rounds=st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 5), st.booleans(), st.integers(0, 9)),
        min_size=1,
        max_size=6,
    ),
    sampling=st.sampled_from([GREEDY, WARM, WARM_BIASED]),
)
def test_after_any_rejections_it_proposes_what_it_would_from_nothing(
    folder: Path, prompt: int, rounds: list[tuple[int, int, bool, int]], sampling: Sampling
) -> None:
    """In each round so many of its tokens are accepted, and one of another's follows or its own;
    in between it drafts some tokens ahead, or none."""
    model = build(folder)
    context = tokens(prompt, prompt)
    assert model.extend("r", 0, context, prompt)
    for number, (length, accepted, is_own, num_ahead) in enumerate(rounds):
        (proposal,) = finish(model.propose([Want("r", length, sampling, num_ahead > 0)]))
        assert proposal.tokens == fresh(folder, context, length, sampling)
        assert len(proposal.margins) == len(proposal.tokens)
        assert all(margin >= 0 for margin in proposal.margins)
        asked = chain([False] * num_ahead, repeat(True))
        assert model.draft_ahead(partial(next, asked)) <= num_ahead
        new = [*proposal.tokens[:accepted], 2 + number]
        if is_own:
            new = fresh(folder, context, accepted + 1, sampling)
        assert model.extend("r", len(context), new, prompt)
        context += new


def test_requests_are_drafted_together_as_alone(folder: Path) -> None:
    model = build(folder)
    contexts = {f"r{n}": tokens(n, 3 + 20 * n) for n in range(4)}
    for name, context in contexts.items():
        model.extend(name, 0, context, len(context))
    lengths = {name: 2 + 2 * n for n, name in enumerate(contexts)}
    proposals = finish(model.propose([Want(name, lengths[name], GREEDY) for name in contexts]))
    for (name, context), proposal in zip(contexts.items(), proposals, strict=True):
        assert proposal.tokens == fresh(folder, context, lengths[name], GREEDY)


def test_an_unknown_request_needs_its_whole_context(folder: Path) -> None:
    model = build(folder)
    assert not model.extend("r", 5, [3, 4], 3)
    assert model.extend("r", 0, [3, 4, 5], 3)
    assert not model.extend("r", 7, [3], 3)
    assert model.extend("r", 3, [6], 3)


def test_the_least_recently_used_request_makes_room(folder: Path) -> None:
    model = build(folder, max_requests=2)
    for name in "ab":
        model.extend(name, 0, [4, 5], 2)
    model.extend("a", 2, [6], 2)
    model.extend("c", 0, [7], 1)
    assert not model.extend("b", 2, [6], 2)
    assert model.extend("a", 3, [6], 2)
    # A request that was pushed out proposes nothing; the others are served.
    b, c = finish(model.propose([Want("b", 3, GREEDY), Want("c", 3, GREEDY)]))
    assert b == NOTHING
    assert c.tokens == fresh(folder, [7], 3, GREEDY)


def test_a_proposal_ends_with_the_models_context(folder: Path) -> None:
    model = build(folder)
    context = tokens(1, MAX_CONTEXT - 2)
    model.extend("r", 0, context, len(context))
    (proposal,) = finish(model.propose([Want("r", 12, GREEDY)]))
    assert len(proposal.tokens) == 3
    model.extend("r", len(context), [*proposal.tokens, 5, 6], len(context))
    assert finish(model.propose([Want("r", 12, GREEDY)])) == [NOTHING]


def test_a_released_request_is_forgotten_and_its_slot_used_again(folder: Path) -> None:
    model = build(folder, max_requests=1)
    for number in range(3):
        context = tokens(number, 10)
        model.extend(str(number), 0, context, 10)
        (proposal,) = finish(model.propose([Want(str(number), 4, GREEDY)]))
        assert proposal.tokens == fresh(folder, context, 4, GREEDY)
        model.release(str(number))
        model.release("never seen")
        assert not model.extend(str(number), 10, [3], 10)


def test_what_was_drafted_ahead_needs_no_pass_when_it_is_asked_for(folder: Path) -> None:
    """All of four tokens and its own fifth are accepted; the next four are there. Then one of
    another's breaks the path."""
    model = build(folder)
    context = tokens(1, 9)
    model.extend("r", 0, context, 9)
    (first,) = finish(model.propose([Want("r", 4, GREEDY, ahead=True)]))
    assert first.num_ready == 0
    assert model.draft_ahead(lambda: False) == 5
    assert model.draft_ahead(lambda: False) == 0
    text = fresh(folder, context, 15, GREEDY)
    model.extend("r", 9, text[:5], 9)
    (second,) = finish(model.propose([Want("r", 6, GREEDY)]))
    assert (second.tokens, second.num_ready) == (text[5:11], 4)
    model.extend("r", 14, [*text[5:7], 7], 9)
    (third,) = finish(model.propose([Want("r", 2, GREEDY)]))
    assert third.num_ready == 0


def test_the_rest_of_a_path_is_there_although_nothing_was_drafted_ahead(folder: Path) -> None:
    """The verifier took two tokens of six, and the target's third was the drafter's, too."""
    model = build(folder)
    context = tokens(1, 9)
    model.extend("r", 0, context, 9)
    (first,) = finish(model.propose([Want("r", 6, GREEDY)]))
    model.extend("r", 9, first.tokens[:3], 9)
    (second,) = finish(model.propose([Want("r", 4, GREEDY)]))
    assert second.tokens[:3] == first.tokens[3:]
    assert second.num_ready == 3


def test_it_stops_drafting_ahead_as_soon_as_it_is_asked(folder: Path) -> None:
    model = build(folder)
    model.extend("r", 0, tokens(1, 9), 9)
    finish(model.propose([Want("r", 6, GREEDY, ahead=True)]))
    assert model.draft_ahead(lambda: True) == 0
    model.release("r")
    assert model.draft_ahead(lambda: False) == 0
