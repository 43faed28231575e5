"""Drawing tokens: the distribution is the target's, and a draw depends on nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from shared.lm.sampling import draw, gumbel, survivors
from shared.messages import Sampling

NUM_DRAWS = 50_000
LOGITS = np.random.default_rng(7).normal(0, 2, 40).astype(np.float32)

logit_rows = st.lists(
    st.sampled_from([-5.0, -1.0, 0.0, 0.5, 1.0, 1.0, 3.0, 8.0]), min_size=2, max_size=300
).map(lambda values: np.array(values, np.float32))


def softmax(scaled: np.ndarray) -> np.ndarray:
    weights = np.exp(scaled - scaled.max())
    return weights / weights.sum()


def frequencies(sampling: Sampling) -> np.ndarray:
    """Counts of draws over positions, the seed fixed: positions must be independent too."""
    context: list[int] = []
    counts = np.zeros(len(LOGITS), int)
    for _ in range(NUM_DRAWS):
        counts[draw(LOGITS, sampling, range(len(context)), 0)] += 1
        context.append(0)
    return counts


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
    token = draw(logits, Sampling(temperature=0.0), [], 0)
    assert token == min(t for t in range(len(logits)) if logits[t] == logits.max())


def test_penalties_and_bias_follow_their_formulas() -> None:
    logits = np.array([2.0, -1.0, 0.5, 1.0], np.float32)
    greedy = {"temperature": 0.0}
    assert draw(logits, Sampling(**greedy), [0, 0, 3], 1) == 0
    # Output holds 0 once and 3 once: 2.0 - 0.7 - 0.5 = 0.8, 1.0 - 1.2 = -0.2.
    penal = Sampling(**greedy, presence_penalty=0.7, frequency_penalty=0.5)
    assert draw(logits, penal, [0, 0, 3], 1) == 0
    # Twice: 2.0 - 0.7 - 1.0 = 0.3, below token 2.
    assert draw(logits, penal, [0, 0, 3], 0) == 2
    # Repetition counts the prompt too: 2.0 / 4 = 0.5, 1.0 stays.
    repeat = Sampling(**greedy, repetition_penalty=4.0)
    assert draw(logits, repeat, [0], 1) == 3
    assert draw(logits, Sampling(**greedy, logit_bias={1: 3.5}), [], 0) == 1


def test_a_large_vocabulary_with_a_flat_distribution_still_has_its_whole_nucleus() -> None:
    scaled = np.zeros(5000)
    assert survivors(scaled, Sampling(top_p=0.5)).tolist() == list(range(2500))


def test_shared_noise_agrees_more_often_than_argmax() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(0, 1.5, 200).astype(np.float32)
    draft = target + rng.normal(0, 0.3, 200).astype(np.float32)
    sampling = Sampling(temperature=1.0, seed=9)
    draws = [draw(target, sampling, range(n), 0) for n in range(2000)]
    shared = np.mean([draw(draft, sampling, range(n), 0) == d for n, d in enumerate(draws)])
    argmax = np.mean([int(draft.argmax()) == d for d in draws])
    assert shared > 2 * argmax
