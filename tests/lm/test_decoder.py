"""The decoder: ragged batches, rewinds and chunks give the bits of a request alone."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.verifier.precision import PRECISIONS
from shared.errors import ModelError
from shared.lm.decoder import Decoder, Row, load_decoder
from shared.lm.in_place_decoder import PATIENCE, STEP, InPlaceDecoder, in_passes
from shared.lm.self_test import check_rows
from tests.toy import MAX_CONTEXT, VOCAB_SIZE, write_toy

NUM_SLOTS = 6


def tokens(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB_SIZE, count).tolist()


@pytest.fixture(scope="module", params=[*((p, 2) for p in PRECISIONS), ("fp32", 4), ("fp32", 1)])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    """In all precisions, and with two, one and four queries to a key-value head."""
    precision, num_kv_heads = request.param
    folder = write_toy(
        tmp_path_factory.mktemp("toy") / "m", precision=precision, num_kv_heads=num_kv_heads
    )
    return load_decoder(folder, max_slots=NUM_SLOTS, num_threads=2)


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Decoder]:
    """Decoders of one model by the size of their runs; 0 is any."""
    folder = write_toy(tmp_path_factory.mktemp("toy") / "m")
    return cache(
        lambda pass_tokens: load_decoder(
            folder, max_slots=NUM_SLOTS, num_threads=1, pass_tokens=pass_tokens
        )
    )


@pytest.fixture
def fresh(tmp_path: Path) -> Decoder:
    return load_decoder(write_toy(tmp_path / "m"), max_slots=NUM_SLOTS, num_threads=1)


def test_the_self_test_finds_every_row_equal(decoder: Decoder) -> None:
    result = check_rows(decoder)
    assert result.num_compared > 300
    assert result.num_unequal == 0


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=NUM_SLOTS),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
def test_any_company_and_chunking_gives_the_bits_of_a_text_alone(
    decoder: Decoder, lengths: list[int], cuts: list[int], seed: int
) -> None:
    texts = [tokens(seed + n, length) for n, length in enumerate(lengths)]
    alone = [decoder.forward([Row(0, 0, text, len(text))])[0] for text in texts]
    starts = [0] * len(texts)
    step = 0
    while any(start < len(text) for start, text in zip(starts, texts, strict=True)):
        rows = []
        for slot, (start, text) in enumerate(zip(starts, texts, strict=True)):
            # Now and then a request sits a pass out, so that slots between others stay empty.
            if start < len(text) and (step + slot) % 3:
                chunk = text[start : start + cuts[(step + slot) % len(cuts)]]
                rows.append(Row(slot, start, chunk, len(chunk)))
        step += 1
        if not rows:
            continue
        for row, logits in zip(rows, decoder.forward(rows), strict=True):
            expected = alone[row.slot][row.start : row.start + len(row.tokens)]
            assert np.array_equal(expected, logits)
            starts[row.slot] += len(row.tokens)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=NUM_SLOTS),
    num_logits=st.integers(0, 40),
    pass_tokens=st.integers(2, 50),
)
def test_runs_of_a_fixed_size_give_the_same_bits(
    sized: Callable[[int], Decoder], lengths: list[int], num_logits: int, pass_tokens: int
) -> None:
    """As a GPU needs them: padded, and rows cut where a run is full."""
    rows = [
        Row(slot, 0, tokens(slot, length), min(length, num_logits))
        for slot, length in enumerate(lengths)
    ]
    runs = list(in_passes(rows, pass_tokens))
    assert all(sum(len(row.tokens) for _, row in run) == pass_tokens for run in runs[:-1])
    for row, expected, found in zip(
        rows, sized(0).forward(rows), sized(pass_tokens).forward(rows), strict=True
    ):
        assert found.shape == (row.num_logits, VOCAB_SIZE)
        assert np.array_equal(found, expected)


def test_a_rewind_forgets_what_came_after(decoder: Decoder) -> None:
    text = tokens(1, 30)
    (expected,) = decoder.forward([Row(2, 0, text, 30)])
    decoder.forward([Row(2, 0, text[:20] + tokens(2, 15), 0)])
    (logits,) = decoder.forward([Row(2, 20, text[20:], 10)])
    assert np.array_equal(expected[20:], logits)


def test_only_the_wanted_logits_come_back(decoder: Decoder) -> None:
    text = tokens(3, 12)
    (whole,) = decoder.forward([Row(0, 0, text, 12)])
    first, last, none = decoder.forward(
        [Row(0, 0, text, 3), Row(1, 0, text, 1), Row(2, 0, text, 0)]
    )
    assert np.array_equal(whole[-3:], first)
    assert np.array_equal(whole[-1:], last)
    assert none.shape == (0, VOCAB_SIZE)


def test_a_moved_request_goes_on_in_its_new_slot(decoder: Decoder) -> None:
    text = tokens(4, 25)
    (expected,) = decoder.forward([Row(5, 0, text, 25)])
    decoder.move(5, 1, 20)
    (logits,) = decoder.forward([Row(1, 20, text[20:], 5)])
    assert np.array_equal(expected[20:], logits)


def test_blocks_that_are_put_in_are_as_good_as_computed_ones(decoder: Decoder) -> None:
    """In another slot, in pieces, behind a beginning that was computed there."""
    text = tokens(21, 40)
    (expected,) = decoder.forward([Row(2, 0, text, 10)])
    blocks = [decoder.read(2, start, start + 8) for start in (8, 16)]
    decoder.forward([Row(2, 0, tokens(22, 40), 0), Row(0, 0, text[:8], 0)])
    for start, block in zip((8, 16), blocks, strict=True):
        decoder.write(0, start, block)
    _, logits = decoder.forward([Row(2, 40, tokens(23, 9), 2), Row(0, 24, text[24:], 10)])
    assert np.array_equal(logits, expected)


def test_growing_buffers_keep_every_request(fresh: Decoder) -> None:
    long, short = tokens(5, MAX_CONTEXT), tokens(6, 30)
    (expected,) = fresh.forward([Row(1, 0, short, 30)])
    fresh.forward([Row(1, 0, short[:20], 0)])
    for start in range(0, MAX_CONTEXT, 128):
        fresh.forward([Row(3, start, long[start : start + 128], 1)])
    # Slot 2 idles between them, slot 3 is full to the brim: dummies must find room behind it.
    fresh.forward([Row(2, 0, short[:9], 1), Row(4, 0, short[:9], 1)])
    (logits,) = fresh.forward([Row(1, 20, short[20:], 10)])
    assert np.array_equal(expected[20:], logits)
    (again,) = fresh.forward([Row(3, MAX_CONTEXT - 1, long[-1:], 1)])
    assert np.isfinite(again).all()


def test_buffers_shorten_once_nobody_needs_their_length(fresh: Decoder) -> None:
    assert isinstance(fresh, InPlaceDecoder)
    long, short = tokens(5, 400), tokens(6, 30)
    (expected,) = fresh.forward([Row(1, 0, short, 30)])
    fresh.forward([Row(3, 0, long, 0)])
    full = fresh.cache_length
    for first in (4, 2):
        # Only then is the long request gone.
        fresh.free(first)
        for _ in range(PATIENCE):
            (logits,) = fresh.forward([Row(1, 20, short[20:], 10)])
        assert np.array_equal(expected[20:], logits)
        assert fresh.cache_length == (full if first == 4 else STEP)
    assert full >= 400


def test_buffers_begin_anew_once_nothing_is_held(fresh: Decoder) -> None:
    """Those of a load that is over are not the next one's, which would pay for their length."""
    assert isinstance(fresh, InPlaceDecoder)
    short = tokens(6, 30)
    (expected,) = fresh.forward([Row(1, 0, short, 30)])
    fresh.forward([Row(3, 0, tokens(5, 400), 0)])
    fresh.free(0)
    assert fresh.cache_length == STEP
    (logits,) = fresh.forward([Row(1, 0, short, 30)])
    assert np.array_equal(expected, logits)
    assert fresh.cache_length < 100


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([Row(0, 500, tokens(0, 20), 1)], "exceed the context of 512"),
        ([Row(NUM_SLOTS, 0, [1], 1)], "slot 6 is not within 0 and 5"),
        ([Row(0, 0, [1], 1), Row(0, 0, [2], 1)], "share a cache slot"),
        ([Row(0, 0, [VOCAB_SIZE], 1)], "not within 0 and 95"),
        ([Row(0, 0, [-1], 1)], "not within 0 and 95"),
        ([Row(0, 0, [], 0)], "0 logits of 0 tokens"),
        ([Row(0, 0, [1], 2)], "2 logits of 1 tokens"),
    ],
)
def test_an_impossible_pass_is_refused(fresh: Decoder, rows: list[Row], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        fresh.forward(rows)


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_toy(tmp_path / "m")
    graph = folder / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-10] + b"0123456789")
    with pytest.raises(ModelError, match=r"model\.onnx is damaged"):
        load_decoder(folder, max_slots=1, num_threads=1)


def test_an_unfinished_folder_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_toy(tmp_path / "m")
    (folder / "manifest.json").unlink()
    with pytest.raises(ModelError, match=r"no exported model: it has no manifest\.json"):
        load_decoder(folder, max_slots=1, num_threads=1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 9}, "has format 9"),
        ({"extra": 1}, "not a manifest"),
        ({"files": {"x": ""}}, "x"),
    ],
)
def test_a_wrong_manifest_is_refused(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    folder = write_toy(tmp_path / "m")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(ModelError, match=reason):
        load_decoder(folder, max_slots=1, num_threads=1)
