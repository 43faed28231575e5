"""Detokenization piece by piece, and stop strings, equal what the whole text would give."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.gateway.stops import StopScanner
from services.gateway.text import Detokenizer, TextModel
from shared.errors import ModelError
from shared.lm.manifest import checksum


def test_the_gateway_needs_no_graph_and_no_damaged_tokenizer(
    model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "talker"
    shutil.copytree(model_folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {"model.onnx": "0", "tokenizer.json": checksum(folder / "tokenizer.json")}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert TextModel(folder).encode("fox")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json is damaged"):
        TextModel(folder)


relaxed = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
texts = st.text(st.sampled_from("abc T–é😀\n fox"), max_size=40)


@relaxed
@given(texts)
def test_pieces_join_to_the_text(text_model: TextModel, text: str) -> None:
    detokenizer = Detokenizer(text_model)
    pieces = [detokenizer.push(token) for token in text_model.encode(text)]
    assert "".join(pieces) + detokenizer.flush() == text
    assert not any("�" in piece for piece in pieces)


@relaxed
@given(st.lists(st.integers(2, 300), max_size=30))
def test_any_tokens_join_to_their_decoding(text_model: TextModel, tokens: list[int]) -> None:
    detokenizer = Detokenizer(text_model)
    text = "".join(detokenizer.push(token) for token in tokens) + detokenizer.flush()
    assert text == text_model.decode(tokens)


@given(
    st.lists(st.text("ab", max_size=5), max_size=10),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
def test_a_scanner_cuts_where_the_whole_text_would_be_cut(
    pieces: list[str], stops: list[str]
) -> None:
    scanner = StopScanner(stops)
    seen, said = "", ""
    for piece in pieces:
        if not scanner.is_stopped:
            seen += piece
            said += scanner.push(piece)
    places = [seen.find(stop) for stop in stops if stop in seen]
    assert scanner.is_stopped == bool(places)
    assert said + scanner.flush() == (seen[: min(places)] if places else seen)


def test_markers_that_are_kept_are_part_of_the_text(text_model: TextModel) -> None:
    tokens = [*text_model.encode("a naïve"), 0, *text_model.encode("fox"), 1]
    for kept, expected in [((), "a naïvefox"), (("<|im_start|>",), "a naïve<|im_start|>fox")]:
        detokenizer = Detokenizer(text_model, kept)
        text = "".join(map(detokenizer.push, tokens)) + detokenizer.flush()
        assert text == expected


def test_json_in_a_template_holds_no_marker(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "talker"
    shutil.copytree(model_folder, folder)
    template = "{% for m in messages %}{{ m['tool_calls'] | tojson }}{% endfor %}"
    settings = [{"name": "default", "template": "none"}, {"name": "tool_use", "template": template}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": settings}))
    model = TextModel(folder)
    calls = [{"a": "x<|im_end|>y"}]
    tokens = model.encode_chat([{"role": "user", "content": "", "tool_calls": calls}])
    assert 1 not in tokens
    assert json.loads(model.decode(tokens, with_markers=True)) == calls
