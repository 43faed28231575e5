"""A draft model as machine code: against plain arithmetic, and against its graph."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.drafter.compiled import CompiledLlama, Instructions, usable
from services.drafter.neural import SUREST
from services.drafter.packing import fits
from shared.errors import ModelError
from shared.generation import Sampling
from shared.lm.compact import Linear, load_compact
from shared.lm.decoder import Row, load_decoder
from shared.lm.manifest import load_manifest
from shared.lm.sampling import Place, draw_with_margins
from tests.drafter.random_llamas import CONTEXT, SIZES, SOME, FloatArray, Sizes, logits, text

MODELS = Path(__file__).parent.parent.parent / "models"
GREEDY = Sampling(temperature=0.0)
INSTRUCTIONS = [
    pytest.param(own, id=f"{own.lanes} lanes{', dots' * own.has_dots}") for own in usable()
]


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@settings(max_examples=12, deadline=None)
@given(sizes=SIZES, lengths=st.lists(st.integers(1, CONTEXT), min_size=1, max_size=4))
def test_logits_are_those_of_the_definition(
    instructions: Instructions, sizes: Sizes, lengths: list[int]
) -> None:
    """Of several texts in one pass, each of its own length."""
    compact, manifest = sizes.compact(3), sizes.manifest()
    assert fits(compact, manifest)
    model = CompiledLlama(compact, manifest, len(lengths), instructions)
    texts = [text(n, length, sizes.vocab_size) for n, length in enumerate(lengths)]
    found = model.forward([Row(n, 0, own, len(own)) for n, own in enumerate(texts)])
    for own, part in zip(texts, found, strict=True):
        right = logits(compact, manifest, own, has_dots=instructions.has_dots)
        assert part.shape == right.shape
        # The cache has 16 bits; a byte that is rounded to the other side tells in a small model.
        farthest = 0.05 if instructions.has_dots else 0.003
        assert np.sqrt(np.mean((part - right) ** 2)) <= farthest * right.std()


@pytest.fixture(scope="module", params=INSTRUCTIONS)
def model(request: pytest.FixtureRequest) -> CompiledLlama:
    return CompiledLlama(SOME.compact(5), SOME.manifest(), 8, request.param)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, CONTEXT), min_size=1, max_size=8),
    cuts=st.lists(st.floats(0, 1), min_size=3, max_size=3),
)
def test_a_token_has_the_same_logits_in_any_company_and_after_any_rewind(
    model: CompiledLlama, lengths: list[int], cuts: list[float]
) -> None:
    """Bit for bit: all at once, or alone in pieces over what another text left in the cache."""
    texts = [text(n, length, SOME.vocab_size) for n, length in enumerate(lengths)]
    together = model.forward([Row(n, 0, own, 1) for n, own in enumerate(texts)])
    for own, right in zip(texts, together, strict=True):
        model.read([Row(7, 0, text(99, CONTEXT, SOME.vocab_size), 0)])
        places = sorted({0, *(int(cut * (len(own) - 1)) for cut in cuts)})
        for start, end in pairwise(places):
            model.read([Row(7, start, own[start:end], 0)])
        (alone,) = model.forward([Row(7, places[-1], own[places[-1] :], 1)])
        np.testing.assert_array_equal(alone, right)


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 0.3, 0.8, 1.5])
def test_many_tokens_at_once_are_those_of_one_at_a_time(
    model: CompiledLlama, temperature: float
) -> None:
    """Drawn by the shared definition from the code's own logits."""
    num_same = 0
    for seed in range(40):
        sampling = Sampling(temperature=temperature, seed=seed**7)
        texts = [text(100 * seed + n, 5 + 9 * n, SOME.vocab_size) for n in range(4)]
        rows = [Row(n, 0, own, 1) for n, own in enumerate(texts)]
        places = [Place(sampling, (), len(own), 2) for own in texts]
        drawn = model.draw(rows, places, 6)
        for own, found in zip(texts, drawn, strict=True):
            assert len(found.tokens) == len(found.margins) == 6
            right = logits_of(model, own, found.tokens)
            tokens, margins = draw_with_margins(
                right, [Place(sampling, (), len(own) + n, 2) for n in range(6)]
            )
            # A token that is the only one left wins by more than is told.
            pairs = (np.minimum(each, SUREST) for each in (margins, found.margins))
            num_same += np.sum((tokens == found.tokens) & np.isclose(*pairs, atol=1e-3))
    # That a token far from the best is drawn, or is the next best, is left out.
    assert num_same >= 0.995 * 40 * 4 * 6


def logits_of(model: CompiledLlama, context: list[int], drafted: list[int]) -> FloatArray:
    (found,) = model.forward([Row(6, 0, [*context, *drafted[:-1]], len(drafted))])
    return found


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.7, seed=1, top_k=5),
        Sampling(temperature=0.7, seed=1, top_p=0.5),
        Sampling(temperature=0.7, seed=1, min_p=0.1),
        Sampling(temperature=0.0, repetition_penalty=1.5),
        Sampling(temperature=0.0, logit_bias={3: 100.0}),
    ],
    ids=["top_k", "top_p", "min_p", "penalty", "bias"],
)
def test_what_it_does_not_draw_itself_is_drawn_from_its_logits(
    model: CompiledLlama, sampling: Sampling
) -> None:
    """One token at a time."""
    own = text(1, 20, SOME.vocab_size)
    place = Place(sampling, own, len(own), 2)
    (found,) = model.draw([Row(0, 0, own, 1)], [place], 6)
    tokens, margins = draw_with_margins(logits_of(model, own, [0]), [place])
    assert found.tokens == tokens.tolist()
    assert found.margins == margins.tolist()


def test_of_equal_logits_the_lowest_token_is_drawn() -> None:
    """Columns of the head that are copies of another."""
    compact = SOME.compact(5)
    for instructions in usable():
        for copies in ([3, 4], [3, 19], [0, 149], [33, 80, 120]):
            best = compact.head.weights.copy(), compact.head.scales.copy()
            best[0][:, copies] = 127
            best[1][copies] = 1.0
            model = CompiledLlama(
                replace(compact, head=Linear(*best)), SOME.manifest(), 1, instructions
            )
            tokens = text(2, 9, SOME.vocab_size)
            (right,) = model.forward([Row(0, 0, tokens, 1)])
            (found,) = model.draw([Row(0, 0, tokens, 1)], [Place(GREEDY, (), 9, 1)], 1)
            assert found.tokens == [int(right[0].argmax())]
            if right[0, copies[0]] == right[0].max():
                assert found.margins == [0.0]


def test_what_does_not_fit_is_refused(model: CompiledLlama) -> None:
    place = Place(GREEDY, (), CONTEXT, 1)
    own = text(1, CONTEXT, SOME.vocab_size)
    assert len(model.draw([Row(0, 0, own, 1)], [place], 1)[0].tokens) == 1
    with pytest.raises(ModelError, match="71 tokens exceed the context of 70"):
        model.draw([Row(0, 0, own, 1)], [place], 2)
    with pytest.raises(ModelError, match="exceed the context"):
        model.forward([Row(0, 1, own, 1)])
    with pytest.raises(ModelError, match="slot 8 is not within 0 and 7"):
        model.read([Row(8, 0, [1], 0)])
    with pytest.raises(ModelError, match="token id"):
        model.read([Row(0, 0, [SOME.vocab_size], 0)])


def test_the_shipped_models_logits_are_nearly_their_graphs() -> None:
    for name in ("quorum-draft-small", "quorum-draft-wide"):
        folder = MODELS / name
        manifest = load_manifest(folder)
        own = CompiledLlama(load_compact(folder), manifest, 1, usable()[0])
        graph = load_decoder(folder, max_slots=1, num_threads=1)
        row = Row(0, 0, text(1, 300, manifest.vocab_size), 300)
        right, found = graph.forward([row])[0], own.forward([row])[0]
        assert np.sqrt(np.mean((right - found) ** 2)) < 0.04 * right.std()
        assert np.mean(right.argmax(axis=1) == found.argmax(axis=1)) > 0.95
