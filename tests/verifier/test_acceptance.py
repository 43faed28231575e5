"""Acceptance: a draft changes how many tokens a pass yields, never which."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.verifier.acceptance import Drafted, accept
from shared.generation import Sampling
from shared.lm.sampling import Place, draw

VOCABULARY = 6


def logits_after(context: list[int]) -> np.ndarray:
    """A toy target: its logits are a fixed function of the last three tokens."""
    seed = sum((token + 1) * 7**i for i, token in enumerate(context[-3:]))
    return np.random.default_rng(seed).normal(0, 2, VOCABULARY).astype(np.float32)


def passes(context: list[int], draft: list[int]) -> np.ndarray:
    return np.stack([logits_after(context + draft[:n]) for n in range(len(draft) + 1)])


def draw_one(context: list[int], num_prompt_tokens: int, sampling: Sampling) -> int:
    (token,) = draw(
        logits_after(context)[None], [Place(sampling, context, len(context), num_prompt_tokens)]
    )
    return int(token)


def accept_one(
    draft: list[int], context: list[int], num_prompt_tokens: int, sampling: Sampling
) -> list[int]:
    drafted = Drafted(draft, context, num_prompt_tokens, sampling)
    # Beside another request: neither may change what the other gets.
    other = Drafted([1], [0], 1, sampling)
    mine, _ = accept([passes(context, draft), passes([0], [1])], [drafted, other])
    return mine


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.8, 1.0]),
    top_p=st.sampled_from([1.0, 0.95]),
    seed=st.integers(0, 2**63 - 1),
    presence_penalty=st.sampled_from([0.0, 0.9]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
)
tokens = st.integers(0, VOCABULARY - 1)


@given(samplings, st.lists(tokens, min_size=1, max_size=4), st.lists(st.lists(tokens, max_size=5)))
def test_any_drafts_give_the_text_of_plain_decoding(
    sampling: Sampling, prompt: list[int], drafts: list[list[int]]
) -> None:
    context = list(prompt)
    for draft in drafts:
        context += accept_one(draft, context, len(prompt), sampling)
    plain = list(prompt)
    while len(plain) < len(context):
        plain.append(draw_one(plain, len(prompt), sampling))
    assert plain == context


@given(samplings, st.lists(tokens, min_size=1, max_size=4))
def test_a_right_draft_is_accepted_whole_with_a_bonus_token(
    sampling: Sampling, prompt: list[int]
) -> None:
    draft: list[int] = []
    for _ in range(4):
        context = prompt + draft
        draft.append(draw_one(context, len(prompt), sampling))
    emitted = accept_one(draft, prompt, len(prompt), sampling)
    assert emitted[:4] == draft
    assert len(emitted) == 5


def test_rejection_at_the_first_position_still_yields_the_target_token() -> None:
    greedy = Sampling(temperature=0.0)
    right = int(logits_after([1]).argmax())
    wrong = (right + 1) % VOCABULARY
    assert accept_one([wrong], [1], 1, greedy) == [right]
