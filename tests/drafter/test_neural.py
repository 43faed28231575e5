"""The neural draft model: rewinding its cache is as good as reading the context anew."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.drafter.compiled import CompiledLlama, usable
from services.drafter.model import NOTHING, Want, finish
from services.drafter.neural import NeuralModel
from services.drafter.passes import GraphPasses, Passes
from shared.generation import Sampling
from shared.lm.compact import load_compact
from shared.lm.decoder import Row, load_decoder
from shared.lm.manifest import load_manifest
from shared.lm.sampling import Place
from tests.toy import VOCAB_SIZE, write_toy

SHIPPED = Path(__file__).parent.parent.parent / "models" / "quorum-draft-small"
GREEDY = Sampling(temperature=0.0)
WARM = Sampling(temperature=0.9, seed=3)
WARM_BIASED = Sampling(temperature=0.9, seed=3, repetition_penalty=1.2, logit_bias={5: 1.0})


class Few:
    """Passes with fewer slots, of which the last one is left to `Maker.fresh`."""

    def __init__(self, passes: Passes, max_slots: int) -> None:
        self.manifest = passes.manifest
        self.max_slots = max_slots
        self.read = passes.read
        self.draw = passes.draw


@dataclass(frozen=True)
class Maker:
    """Draft models of one kind of passes."""

    passes: Passes

    @property
    def max_context(self) -> int:
        return self.passes.manifest.max_context

    def model(self, max_requests: int = 4, prefill_tokens: int = 32) -> NeuralModel:
        return NeuralModel(Few(self.passes, max_requests), prefill_tokens)

    def fresh(self, context: list[int], length: int, sampling: Sampling) -> list[int]:
        """What the model itself would write behind a prompt, read anew for each token."""
        text = list(context)
        for _ in range(length):
            row = Row(self.passes.max_slots - 1, 0, text, 1)
            place = Place(sampling, text, len(text), len(context))
            (drawn,) = self.passes.draw([row], [place], 1)
            text += drawn.tokens
        return text[len(context) :]


@pytest.fixture(scope="module", params=["graph", "machine code"])
def maker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Maker:
    if request.param == "graph":
        folder = write_toy(tmp_path_factory.mktemp("toy") / "small")
        return Maker(GraphPasses(load_decoder(folder, max_slots=5, num_threads=1)))
    return Maker(CompiledLlama(load_compact(SHIPPED), load_manifest(SHIPPED), 5, usable()[0]))


def tokens(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(2, VOCAB_SIZE, count).tolist()


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
    maker: Maker, prompt: int, rounds: list[tuple[int, int, bool, int]], sampling: Sampling
) -> None:
    """In each round so many of its tokens are accepted, and one of another's follows or its own;
    in between it drafts some tokens ahead, or none."""
    model = maker.model()
    context = tokens(prompt, prompt)
    assert model.extend("r", 0, context, prompt)
    for number, (length, accepted, is_own, num_ahead) in enumerate(rounds):
        (proposal,) = finish(model.propose([Want("r", length, sampling, num_ahead > 0)]))
        assert proposal.tokens == maker.fresh(context, length, sampling)
        assert len(proposal.margins) == len(proposal.tokens)
        assert all(margin >= 0 for margin in proposal.margins)
        asked = chain([False] * num_ahead, repeat(True))
        assert model.draft_ahead(partial(next, asked)) <= num_ahead
        new = [*proposal.tokens[:accepted], 2 + number]
        if is_own:
            new = maker.fresh(context, accepted + 1, sampling)
        assert model.extend("r", len(context), new, prompt)
        context += new


def test_requests_are_drafted_together_as_alone(maker: Maker) -> None:
    model = maker.model()
    contexts = {f"r{n}": tokens(n, 3 + 20 * n) for n in range(4)}
    for name, context in contexts.items():
        model.extend(name, 0, context, len(context))
    lengths = {name: 2 + 2 * n for n, name in enumerate(contexts)}
    proposals = finish(model.propose([Want(name, lengths[name], GREEDY) for name in contexts]))
    for (name, context), proposal in zip(contexts.items(), proposals, strict=True):
        assert proposal.tokens == maker.fresh(context, lengths[name], GREEDY)


def test_an_unknown_request_needs_its_whole_context(maker: Maker) -> None:
    model = maker.model()
    assert not model.extend("r", 5, [3, 4], 3)
    assert model.extend("r", 0, [3, 4, 5], 3)
    assert not model.extend("r", 7, [3], 3)
    assert model.extend("r", 3, [6], 3)


def test_the_least_recently_used_request_makes_room(maker: Maker) -> None:
    model = maker.model(max_requests=2)
    for name in "ab":
        model.extend(name, 0, [4, 5], 2)
    model.extend("a", 2, [6], 2)
    model.extend("c", 0, [7], 1)
    assert not model.extend("b", 2, [6], 2)
    assert model.extend("a", 3, [6], 2)
    # A request that was pushed out proposes nothing; the others are served.
    b, c = finish(model.propose([Want("b", 3, GREEDY), Want("c", 3, GREEDY)]))
    assert b == NOTHING
    assert c.tokens == maker.fresh([7], 3, GREEDY)


def test_a_proposal_ends_with_the_models_context(maker: Maker) -> None:
    model = maker.model()
    context = tokens(1, maker.max_context - 2)
    model.extend("r", 0, context, len(context))
    (proposal,) = finish(model.propose([Want("r", 12, GREEDY)]))
    assert len(proposal.tokens) == 3
    model.extend("r", len(context), [*proposal.tokens, 5, 6], len(context))
    assert finish(model.propose([Want("r", 12, GREEDY)])) == [NOTHING]


def test_a_released_request_is_forgotten_and_its_slot_used_again(maker: Maker) -> None:
    model = maker.model(max_requests=1)
    for number in range(3):
        context = tokens(number, 10)
        model.extend(str(number), 0, context, 10)
        (proposal,) = finish(model.propose([Want(str(number), 4, GREEDY)]))
        assert proposal.tokens == maker.fresh(context, 4, GREEDY)
        model.release(str(number))
        model.release("never seen")
        assert not model.extend(str(number), 10, [3], 10)


def test_what_was_drafted_ahead_needs_no_pass_when_it_is_asked_for(maker: Maker) -> None:
    """All of four tokens and its own fifth are accepted; the next four are there. Then one of
    another's breaks the path."""
    model = maker.model()
    context = tokens(1, 9)
    model.extend("r", 0, context, 9)
    (first,) = finish(model.propose([Want("r", 4, GREEDY, ahead=True)]))
    assert first.num_ready == 0
    assert model.draft_ahead(lambda: False) == 5
    assert model.draft_ahead(lambda: False) == 0
    text = maker.fresh(context, 15, GREEDY)
    model.extend("r", 9, text[:5], 9)
    (second,) = finish(model.propose([Want("r", 6, GREEDY)]))
    assert (second.tokens, second.num_ready) == (text[5:11], 4)
    model.extend("r", 14, [*text[5:7], 7], 9)
    (third,) = finish(model.propose([Want("r", 2, GREEDY)]))
    assert third.num_ready == 0


def test_the_rest_of_a_path_is_there_although_nothing_was_drafted_ahead(maker: Maker) -> None:
    """The verifier took two tokens of six, and the target's third was the drafter's, too."""
    model = maker.model()
    context = tokens(1, 9)
    model.extend("r", 0, context, 9)
    (first,) = finish(model.propose([Want("r", 6, GREEDY)]))
    model.extend("r", 9, first.tokens[:3], 9)
    (second,) = finish(model.propose([Want("r", 4, GREEDY)]))
    assert second.tokens[:3] == first.tokens[3:]
    assert second.num_ready == 3


def test_it_stops_drafting_ahead_as_soon_as_it_is_asked(maker: Maker) -> None:
    model = maker.model()
    model.extend("r", 0, tokens(1, 9), 9)
    finish(model.propose([Want("r", 6, GREEDY, ahead=True)]))
    assert model.draft_ahead(lambda: True) == 0
    model.release("r")
    assert model.draft_ahead(lambda: False) == 0
