"""Drawing tokens: the distribution is the target's, and a draw depends on nothing else."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from shared.generation import Sampling
from shared.lm.sampling import Place, draw, draw_with_margins, gumbel, survivors

NUM_DRAWS = 50_000
LOGITS = np.random.default_rng(7).normal(0, 2, 40).astype(np.float32)

logit_rows = st.lists(
    st.sampled_from([-5.0, -1.0, 0.0, 0.5, 1.0, 1.0, 3.0, 8.0]), min_size=2, max_size=300
).map(lambda values: np.array(values, np.float32))


def softmax(scaled: np.ndarray) -> np.ndarray:
    weights = np.exp(scaled - scaled.max())
    return weights / weights.sum()


def draw_one(
    logits: np.ndarray, sampling: Sampling, context: Sequence[int], num_prompt_tokens: int = 0
) -> int:
    (token,) = draw(logits[None], [Place(sampling, context, len(context), num_prompt_tokens)])
    return int(token)


def frequencies(sampling: Sampling) -> np.ndarray:
    """Counts of draws over positions, the seed fixed: positions must be independent too."""
    places = [Place(sampling, [], n, 0) for n in range(NUM_DRAWS)]
    drawn = draw(np.broadcast_to(LOGITS, (NUM_DRAWS, len(LOGITS))), places)
    return np.bincount(drawn, minlength=len(LOGITS))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, seed=1),
        Sampling(temperature=0.7, seed=2),
        Sampling(temperature=1.3, top_p=0.8, seed=3),
        Sampling(temperature=1.0, top_k=5, seed=4),
        Sampling(temperature=1.0, min_p=0.1, seed=5),
        Sampling(temperature=0.9, min_p=0.02, top_k=12, top_p=0.9, seed=-6),
    ],
    ids=["plain", "cold", "top-p", "top-k", "min-p", "all"],
)
def test_draws_follow_the_target_distribution(sampling: Sampling) -> None:
    scaled = LOGITS.astype(np.float64) / sampling.temperature
    kept = survivors(scaled, sampling)
    expected = softmax(scaled[kept]) * NUM_DRAWS
    counts = frequencies(sampling)
    assert counts.sum() == counts[kept].sum()
    rare = expected < 5
    observed = np.append(counts[kept][~rare], counts[kept][rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] == 0:
        observed, expected = observed[:-1], expected[:-1]
    assert stats.chisquare(observed, expected).pvalue > 1e-4


def test_noise_is_a_standard_gumbel_and_differs_between_seeds_positions_and_tokens() -> None:
    tokens = np.arange(50_000)
    noise = gumbel(3, 17, tokens)
    assert stats.kstest(noise, "gumbel_r").pvalue > 1e-4
    for other in (gumbel(4, 17, tokens), gumbel(3, 18, tokens), gumbel(-3, 17, tokens)):
        assert abs(np.corrcoef(noise, other)[0, 1]) < 0.02
    assert np.array_equal(gumbel(3, 17, tokens[100:105]), noise[100:105])


@given(logit_rows, st.integers(0, 400), st.floats(0.01, 1.0), st.sampled_from([0.0, 0.05, 0.5]))
def test_survivors_are_what_the_definitions_say(
    logits: np.ndarray, top_k: int, top_p: float, min_p: float
) -> None:
    scaled = logits.astype(np.float64)
    order = sorted(range(len(scaled)), key=lambda t: (-scaled[t], t))
    probabilities = softmax(scaled)
    order = [t for t in order if min_p == 0 or scaled[t] >= scaled.max() + np.log(min_p)]
    order = order[: top_k or None]
    if top_p < 1.0:
        mass = np.cumsum(probabilities[order]) / probabilities[order].sum()
        # A sum at the very edge may round either way; such cases say nothing.
        if np.any(np.abs(mass - top_p) < 1e-9):
            return
        order = order[: int(np.searchsorted(mass, top_p)) + 1]
    kept = survivors(scaled, Sampling(top_k=top_k, top_p=top_p, min_p=min_p))
    assert kept.tolist() == sorted(order)


@given(logit_rows)
def test_greedy_takes_the_lowest_of_equal_maxima(logits: np.ndarray) -> None:
    token = draw_one(logits, Sampling(temperature=0.0), [])
    assert token == min(t for t in range(len(logits)) if logits[t] == logits.max())


def test_penalties_and_bias_follow_their_formulas() -> None:
    logits = np.array([2.0, -1.0, 0.5, 1.0], np.float32)
    greedy = {"temperature": 0.0}
    assert draw_one(logits, Sampling(**greedy), [0, 0, 3], 1) == 0
    # Output holds 0 once and 3 once: 2.0 - 0.7 - 0.5 = 0.8, 1.0 - 1.2 = -0.2.
    penal = Sampling(**greedy, presence_penalty=0.7, frequency_penalty=0.5)
    assert draw_one(logits, penal, [0, 0, 3], 1) == 0
    # Twice: 2.0 - 0.7 - 1.0 = 0.3, below token 2.
    assert draw_one(logits, penal, [0, 0, 3], 0) == 2
    # Repetition counts the prompt too: 2.0 / 4 = 0.5, 1.0 stays.
    repeat = Sampling(**greedy, repetition_penalty=4.0)
    assert draw_one(logits, repeat, [0], 1) == 3
    assert draw_one(logits, Sampling(**greedy, logit_bias={1: 3.5}), []) == 1


def test_a_large_vocabulary_with_a_flat_distribution_still_has_its_whole_nucleus() -> None:
    scaled = np.zeros(5000)
    assert survivors(scaled, Sampling(top_p=0.5)).tolist() == list(range(2500))


def test_shared_noise_agrees_more_often_than_argmax() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(0, 1.5, 200).astype(np.float32)
    draft = target + rng.normal(0, 0.3, 200).astype(np.float32)
    sampling = Sampling(temperature=1.0, seed=9)
    places = [Place(sampling, [], n, 0) for n in range(2000)]
    draws = draw(np.broadcast_to(target, (2000, 200)), places)
    shared = np.mean(draw(np.broadcast_to(draft, (2000, 200)), places) == draws)
    argmax = np.mean(draws == draft.argmax())
    assert shared > 2 * argmax


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_p=st.sampled_from([1.0, 0.9]),
    top_k=st.sampled_from([0, 5]),
    min_p=st.sampled_from([0.0, 0.02]),
    seed=st.integers(-(2**63), 2**63 - 1),
    presence_penalty=st.sampled_from([0.0, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.2]),
    logit_bias=st.sampled_from([{}, {3: 9.0}]),
)
places = st.builds(
    Place,
    samplings,
    st.lists(st.integers(0, 299), max_size=6),
    st.integers(0, 9),
    st.integers(0, 6),
)


@given(st.lists(places, min_size=1, max_size=20), st.integers(0, 99), st.sampled_from([1.0, 6.0]))
def test_a_row_is_drawn_as_if_it_were_alone(rows: list[Place], seed: int, spread: float) -> None:
    logits = np.random.default_rng(seed).normal(0, spread, (len(rows), 300)).astype(np.float32)
    together, margins = draw_with_margins(logits, rows)
    for n, place in enumerate(rows):
        token, margin = draw_with_margins(logits[n : n + 1], [place])
        assert token[0] == together[n]
        assert margin[0] == margins[n] >= 0
    assert np.array_equal(draw(logits, rows), together)


@given(st.integers(0, 2**32), st.floats(0.1, 9.0), st.integers(1, 50))
def test_leaving_out_hopeless_tokens_changes_no_draw(
    seed: int, spread: float, position: int
) -> None:
    """Logits far apart and close together: noise on all of them gives the same token."""
    logits = np.random.default_rng(seed).normal(0, spread, 500).astype(np.float32)
    sampling = Sampling(temperature=0.9, seed=seed)
    scaled = logits.astype(np.float64) / 0.9
    whole = int(np.argmax(scaled + gumbel(seed, position, np.arange(500))))
    assert draw_one(logits, sampling, range(position)) == whole
