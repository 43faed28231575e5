"""Draft models with another tokenizer than the target's: real models, and texts that stay."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tokenizers import Tokenizer

from services.drafter.config import DrafterConfig
from services.drafter.model import NOTHING, Want, finish
from services.drafter.neural import NeuralModel
from services.drafter.passes import GraphPasses
from services.drafter.service import build as build_drafters
from services.drafter.translated import TranslatedModel
from services.drafter.vocabulary import make_pair
from services.verifier.config import VerifierConfig
from services.verifier.service import VerifierService
from services.voter.config import VoterConfig
from services.voter.service import build as build_voters
from shared.bus import connect
from shared.config import BusConfig
from shared.errors import ModelError
from shared.generation import Sampling
from shared.lm.decoder import GRAPH_FILE, load_decoder
from shared.lm.manifest import load_manifest
from shared.messages import Finished
from tests.system import Client, decode_plainly, running
from tests.toy import END, MAX_CONTEXT, VOCAB_SIZE, write_toy, write_toy_tokenizer

MODELS = Path(__file__).parent.parent.parent / "models"
GREEDY, WARM = Sampling(temperature=0.0), Sampling(temperature=0.8, seed=7)
BIASED = Sampling(temperature=0.7, seed=1, repetition_penalty=1.1, logit_bias={4000: 1.0})
ORDER = np.random.default_rng(3).permutation(VOCAB_SIZE)
"""The toy's tokens by the numbers that the draft model has for them."""


def renumbered(source: Path, folder: Path) -> Path:
    """A toy whose tokens have other numbers: the same text of the same model."""
    shutil.copytree(source, folder)
    graph = onnx.load(folder / GRAPH_FILE)
    for weight in graph.graph.initializer:
        value = numpy_helper.to_array(weight)
        if weight.name == "embedding":
            weight.CopyFrom(numpy_helper.from_array(value[ORDER], weight.name))
        elif weight.name == "head":
            weight.CopyFrom(numpy_helper.from_array(value[:, ORDER], weight.name))
    onnx.save(graph, folder / GRAPH_FILE)
    new = {int(old): number for number, old in enumerate(ORDER)}
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {name: new[id_] for name, id_ in vocabulary.items()}
    for token in content["added_tokens"]:
        token["id"] = new[token["id"]]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    replace(
        load_manifest(source), name=folder.name, eos_token_ids=[new[END]], files={}
    ).save(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`target`, and `other`, which is the target with its tokens renumbered."""
    root = tmp_path_factory.mktemp("toys")
    write_toy_tokenizer(write_toy(root / "target"))
    renumbered(root / "target", root / "other")
    return root


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`target` as it is shipped, and `other`: a shipped draft model that knows fewer words, so that
    it writes the same text in more tokens."""
    root = tmp_path_factory.mktemp("shipped")
    (root / "target").symlink_to(MODELS / "quorum-6m")
    other = root / "other"
    shutil.copytree(MODELS / "quorum-draft-wide", other)
    content = json.loads((other / "tokenizer.json").read_text())
    merges = content["model"]["merges"][:2500]
    gone = {"".join(pair) for pair in content["model"]["merges"][2500:]} - {
        "".join(pair) for pair in merges
    }
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {name: id_ for name, id_ in vocabulary.items() if name not in gone}
    content["model"]["merges"] = merges
    (other / "tokenizer.json").write_text(json.dumps(content))
    replace(load_manifest(MODELS / "quorum-draft-wide"), name="other", files={}).save(other)
    return root


async def generate(
    root: Path, prompts: Sequence[list[int]], samplings: Sequence[Sampling], num_tokens: int
) -> list[tuple[list[int], Finished]]:
    """Through the whole system, all at once, drafted by `other` alone."""
    config = BusConfig()
    bus = connect(config)
    target = VerifierService(
        VerifierConfig(
            model=root / "target",
            num_threads=1,
            max_batch=4,
            draft_timeout_s=5.0,
            self_test=False,
            drafting="all",
        ),
        bus,
        config,
    )
    drafters = build_drafters(
        DrafterConfig(models=str(root / "other"), translate_from=root / "target"), bus, config
    )
    services = [target, *build_voters(VoterConfig(fixed_length=4), bus, config), *drafters]
    async with running(*services), Client(bus, target.name).connected() as client:
        while not target.registry.live("drafter"):
            await target.registry.changed()
        answers = await asyncio.gather(
            *(
                client.generate(prompt, num_tokens, sampling)
                for prompt, sampling in zip(prompts, samplings, strict=True)
            )
        )
    await bus.close()
    return answers


def plain(root: Path, prompt: list[int], sampling: Sampling, num_tokens: int) -> list[int]:
    decoder = load_decoder(root / "target", max_slots=1, num_threads=1)
    return decode_plainly(decoder, prompt, num_tokens, sampling)


def accepted(answers: Sequence[tuple[list[int], Finished]]) -> tuple[int, int]:
    """Draft tokens, and those of them that were accepted."""
    rounds = [r for _, finished in answers for r in finished.report.per_round]
    return sum(drafted for drafted, _ in rounds), sum(taken for _, taken in rounds)


async def test_the_target_under_other_numbers_agrees_with_all_that_it_says(toys: Path) -> None:
    rng = np.random.default_rng(5)
    prompts = [rng.integers(2, VOCAB_SIZE, length).tolist() for length in (1, 9, 30, 60)]
    answers = await generate(toys, prompts, [GREEDY] * 4, 40)
    for prompt, (tokens, _) in zip(prompts, answers, strict=True):
        assert tokens == plain(toys, prompt, GREEDY, 40)
    num_drafted, num_accepted = accepted(answers)
    # What is drafted behind an end that the target was told to ignore is another text.
    assert num_accepted > 0.9 * num_drafted > 80


async def test_texts_equal_plain_decoding_whatever_the_draft_models_words(shipped: Path) -> None:
    tokenizer = Tokenizer.from_file(str(MODELS / "quorum-6m" / "tokenizer.json"))
    texts = (
        "import os\n\ndef read_lines(path):\n    ",
        "<|im_start|>user\nWhat does textwrap.dedent do?<|im_end|>\n<|im_start|>assistant\n",
        'class Größe:\n    """Maße in 日本."""\n\n    def __init__(self',
    )
    prompts = [tokenizer.encode(text).ids for text in texts]
    cases = [(prompt, sampling) for prompt in prompts for sampling in (GREEDY, WARM, BIASED)]
    answers = await generate(shipped, [p for p, _ in cases], [s for _, s in cases], 48)
    for (prompt, sampling), (tokens, _) in zip(cases, answers, strict=True):
        assert tokens == plain(shipped, prompt, sampling, 48)
    greedy = [answer for answer, (_, s) in zip(answers, cases, strict=True) if s is GREEDY]
    num_drafted, num_accepted = accepted(greedy)
    assert num_accepted > 0.3 * num_drafted > 10


def build(root: Path, max_requests: int = 4) -> TranslatedModel:
    pair = make_pair(root / "target", root / "other")
    assert pair is not None
    decoder = load_decoder(root / "other", max_slots=max_requests, num_threads=1)
    return TranslatedModel(NeuralModel(GraphPasses(decoder), 32), pair, max_requests)


def text_of(root: Path, prompt: list[int], num_tokens: int) -> list[int]:
    return plain(root, prompt, GREEDY, num_tokens)


def test_it_proposes_what_the_target_says_as_the_context_grows(toys: Path) -> None:
    model = build(toys)
    context = [5, 6, 7]
    text = text_of(toys, context, 20)
    assert model.extend("r", 0, context, 3)
    for start in range(0, 16, 2):
        (found,) = finish(model.propose([Want("r", 3, WARM, ahead=True)]))
        assert found.tokens == text[start : start + 3]
        assert len(found.margins) == 3
        assert model.extend("r", len(context), text[start : start + 2], 3)
        context += text[start : start + 2]


def test_a_context_that_turns_another_way_is_followed(toys: Path) -> None:
    model = build(toys)
    model.extend("r", 0, [5, 6, 7, 8], 4)
    finish(model.propose([Want("r", 4, GREEDY)]))
    assert model.extend("r", 2, [9], 4)
    (found,) = finish(model.propose([Want("r", 4, GREEDY)]))
    assert found.tokens == text_of(toys, [5, 6, 9], 4)


def test_what_was_drafted_ahead_is_there(toys: Path) -> None:
    model = build(toys)
    model.extend("r", 0, [5, 6, 7], 3)
    (first,) = finish(model.propose([Want("r", 4, GREEDY, ahead=True)]))
    assert model.draft_ahead(lambda: False) > 0
    model.extend("r", 3, text_of(toys, [5, 6, 7], 5), 3)
    (second,) = finish(model.propose([Want("r", 3, GREEDY)]))
    assert (first.num_ready, second.num_ready) == (0, 3)


def test_an_unknown_request_needs_its_whole_context_and_the_oldest_makes_room(toys: Path) -> None:
    model = build(toys, max_requests=2)
    assert not model.extend("a", 3, [5], 3)
    for name in "abc":
        assert model.extend(name, 0, [5, 6], 2)
    assert not model.extend("a", 2, [7], 2)
    assert model.extend("b", 2, [7], 2)
    assert not model.extend("c", 4, [7], 2)
    a, b = finish(model.propose([Want("a", 3, GREEDY), Want("b", 3, GREEDY)]))
    assert a == NOTHING
    assert b.tokens == text_of(toys, [5, 6, 7], 3)
    model.release("b")
    assert not model.extend("b", 3, [7], 2)


def test_nothing_is_proposed_beyond_the_models_context_nor_where_none_is_wanted(toys: Path) -> None:
    model = build(toys)
    model.extend("r", 0, [5] * (MAX_CONTEXT + 1), 3)
    assert finish(model.propose([Want("r", 4, GREEDY)])) == [NOTHING]
    model.extend("q", 0, [5, 6], 3)
    assert finish(model.propose([Want("q", 0, GREEDY)])) == [NOTHING]


async def test_only_draft_models_of_other_tokens_are_translated_for(toys: Path) -> None:
    config = BusConfig()
    bus = connect(config)
    folders = f"{toys / 'target'},{toys / 'other'}"
    same, other = build_drafters(
        DrafterConfig(models=folders, translate_from=toys / "target"), bus, config
    )
    for service in (same, other):
        await service.load()
    assert isinstance(same._model, NeuralModel)
    assert isinstance(other._model, TranslatedModel)
    (lost,) = build_drafters(
        DrafterConfig(models=str(toys / "other"), translate_from=toys / "nowhere"), bus, config
    )
    with pytest.raises(ModelError, match="nowhere is no exported model"):
        await lost.load()
    await bus.close()
