"""A draft model as machine code: against plain arithmetic, and against its graph."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.drafter.choice import load_passes
from services.drafter.compiled import CompiledLlama, Instructions, usable
from services.drafter.neural import SUREST
from services.drafter.packing import fits
from services.drafter.passes import GraphPasses
from shared.errors import ModelError
from shared.generation import Sampling
from shared.lm.compact import FILE_NAME, Compact, Layer, Linear, load_compact
from shared.lm.decoder import Row, load_decoder
from shared.lm.manifest import FORMAT, Manifest, checksum, load_manifest
from shared.lm.sampling import Place, draw_with_margins

FloatArray = npt.NDArray[np.floating]
SHIPPED = Path(__file__).parent.parent.parent / "models" / "quorum-draft-small"
GREEDY = Sampling(temperature=0.0)
CONTEXT = 70
INSTRUCTIONS = [
    pytest.param(own, id=f"{own.lanes} lanes{', dots' * own.has_dots}") for own in usable()
]


@dataclass(frozen=True)
class Sizes:
    num_layers: int
    hidden: int
    num_kv_heads: int
    group: int
    head_size: int
    inner: int
    vocab_size: int
    is_tied: bool

    def manifest(self) -> Manifest:
        return Manifest(
            format=FORMAT,
            name="random",
            architecture="LlamaForCausalLM",
            precision="fp32",
            graph="in-place",
            num_layers=self.num_layers,
            num_heads=self.group * self.num_kv_heads,
            num_kv_heads=self.num_kv_heads,
            head_size=self.head_size,
            vocab_size=self.vocab_size,
            max_context=CONTEXT,
            eos_token_ids=[1],
            files={},
        )

    def compact(self, seed: int) -> Compact:
        rng = np.random.default_rng(seed)

        def linear(num_inputs: int, num_outputs: int) -> Linear:
            weights = rng.standard_normal((num_inputs, num_outputs), np.float32)
            return Linear.of(weights * np.float32(1.5 / np.sqrt(num_inputs)))

        def norm() -> npt.NDArray[np.float32]:
            return rng.uniform(0.5, 1.5, self.hidden).astype(np.float32)

        query, kv = (
            n * self.head_size for n in (self.group * self.num_kv_heads, self.num_kv_heads)
        )
        powers = np.arange(self.head_size // 2) / (self.head_size // 2)
        angles = np.arange(CONTEXT)[:, None] / 100**powers
        head = linear(self.hidden, self.vocab_size)
        return Compact(
            embedding=head if self.is_tied else linear(self.hidden, self.vocab_size),
            head=head,
            norm=norm(),
            cos=np.cos(angles).astype(np.float32),
            sin=np.sin(angles).astype(np.float32),
            epsilon=1e-5,
            scale=self.head_size**-0.5,
            layers=[
                Layer(
                    norm=norm(),
                    qkv=linear(self.hidden, query + 2 * kv),
                    out=linear(query, self.hidden),
                    mlp_norm=norm(),
                    gate_up=linear(self.hidden, 2 * self.inner),
                    down=linear(self.inner, self.hidden),
                )
                for _ in range(self.num_layers)
            ],
        )


SIZES = st.builds(
    Sizes,
    num_layers=st.integers(1, 3),
    hidden=st.sampled_from([16, 48, 80, 128]),
    num_kv_heads=st.integers(1, 3),
    group=st.integers(1, 6),
    head_size=st.sampled_from([32, 64]),
    inner=st.sampled_from([16, 112, 144]),
    vocab_size=st.integers(33, 200),
    is_tied=st.booleans(),
)
SOME = Sizes(2, 48, 2, 2, 32, 112, 150, is_tied=True)


def widened(linear: Linear) -> FloatArray:
    return linear.weights.astype(np.float64) * linear.scales


def logits(
    compact: Compact, manifest: Manifest, tokens: Sequence[int], *, has_dots: bool
) -> FloatArray:
    """Of all tokens of a text, [T, V]: the model's definition, in 64 bits. With `has_dots` what is
    multiplied is rounded to 127 steps of each row's largest."""

    def product(x: FloatArray, linear: Linear) -> FloatArray:
        if has_dots:
            steps = np.abs(x).max(axis=-1, keepdims=True) / 127
            x = np.rint(x / steps) * steps
        return x @ widened(linear)

    def normed(x: FloatArray, factors: FloatArray) -> FloatArray:
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + compact.epsilon) * factors

    def turned(heads: FloatArray) -> FloatArray:
        cos, sin = (table[: len(tokens), None] for table in (compact.cos, compact.sin))
        first, second = np.split(heads, 2, axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    group = manifest.num_heads // manifest.num_kv_heads
    ends = np.cumsum([manifest.num_heads, manifest.num_kv_heads])
    is_hidden = np.triu(np.ones((len(tokens), len(tokens)), bool), 1)
    x = widened(compact.embedding)[:, list(tokens)].T
    for layer in compact.layers:
        qkv = product(normed(x, layer.norm), layer.qkv)
        heads = qkv.reshape(len(tokens), -1, manifest.head_size)
        queries, keys, values = np.split(heads, ends, axis=1)
        queries, keys = turned(queries), turned(keys)
        keys, values = (np.repeat(part, group, axis=1) for part in (keys, values))
        scores = np.einsum("qhd,khd->hqk", queries, keys) * compact.scale
        scores[:, is_hidden] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", weights, values)
        x = x + product(mixed.reshape(len(tokens), -1), layer.out)
        gate, up = np.split(product(normed(x, layer.mlp_norm), layer.gate_up), 2, axis=-1)
        x = x + product(gate / (1 + np.exp(-gate)) * up, layer.down)
    return product(normed(x, compact.norm), compact.head)


def text(seed: int, length: int, vocab_size: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, vocab_size, length).tolist()


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
        folder = SHIPPED.parent / name
        manifest = load_manifest(folder)
        own = CompiledLlama(load_compact(folder), manifest, 1, usable()[0])
        graph = load_decoder(folder, max_slots=1, num_threads=1)
        row = Row(0, 0, text(1, 300, manifest.vocab_size), 300)
        right, found = graph.forward([row])[0], own.forward([row])[0]
        assert np.sqrt(np.mean((right - found) ** 2)) < 0.04 * right.std()
        assert np.mean(right.argmax(axis=1) == found.argmax(axis=1)) > 0.95


def copied(tmp_path: Path, change: Callable[[Path], None]) -> Path:
    """The shipped model with something else beside its graph."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in SHIPPED.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    change(folder)
    manifest = load_manifest(SHIPPED)
    files = {name: checksum(folder / name) for name in manifest.files if (folder / name).is_file()}
    replace(manifest, name=folder.name, files=files).save(folder)
    return folder


def put(folder: Path, content: bytes) -> None:
    (folder / FILE_NAME).write_bytes(content)


def load(folder: Path, compiles: bool = True) -> object:
    return load_passes(folder, max_slots=2, num_threads=1, device="cpu", compiles=compiles)


def test_a_draft_model_is_compiled_where_it_can_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert isinstance(load(SHIPPED), CompiledLlama)
    assert "machine code runs" in caplog.text
    assert isinstance(load(SHIPPED, compiles=False), GraphPasses)
    assert isinstance(load(copied(tmp_path, lambda f: (f / FILE_NAME).unlink())), GraphPasses)


def test_weights_of_another_model_are_not_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def shuffle(folder: Path) -> None:
        compact = load_compact(SHIPPED)
        order = np.random.default_rng(0).permutation(compact.head.weights.shape[1])
        head = Linear(compact.head.weights[:, order], compact.head.scales[order])
        replace(compact, head=head, embedding=head).save(folder)

    assert isinstance(load(copied(tmp_path, shuffle)), GraphPasses)
    assert "off its graph, which runs instead" in caplog.text


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"no archive"], ids=["empty", "cut", "text"]
)
def test_weights_that_cannot_be_read_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    folder = copied(tmp_path, lambda f: put(f, content))
    with pytest.raises(ModelError, match=r"compact\.npz cannot be read"):
        load(folder)


def test_weights_of_a_later_format_are_refused(tmp_path: Path) -> None:
    def later(folder: Path) -> None:
        with np.load(SHIPPED / FILE_NAME) as file:
            arrays = {**file, "format": np.array(2)}
        np.savez(folder / FILE_NAME, **arrays)

    with pytest.raises(ModelError, match="has format 2; 1 is known"):
        load(copied(tmp_path, later))


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    for is_tied in (True, False):
        compact = replace(SOME, is_tied=is_tied).compact(1)
        compact.save(tmp_path)
        again = load_compact(tmp_path)
        assert (again.embedding is again.head) == is_tied
        for one, other in ((compact.embedding, again.embedding), (compact.head, again.head)):
            np.testing.assert_array_equal(one.weights, other.weights)
            np.testing.assert_array_equal(one.scales, other.scales)
        assert len(again.layers) == SOME.num_layers
        np.testing.assert_array_equal(compact.layers[1].down.weights, again.layers[1].down.weights)
        assert (again.epsilon, again.scale) == (compact.epsilon, compact.scale)
