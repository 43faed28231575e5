"""What the gateway tells of itself: tokens of a text, models, limits, over real HTTP."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.information import VERSION
from services.gateway.text import TextModel
from tests.gateway.conftest import END, MODEL, Stage

ROOT = Path(__file__).parents[2]
HELLO = [{"role": "user", "content": "Hello"}]


async def test_a_prompt_is_tokenized_as_it_is_generated_from(stage: Stage) -> None:
    status, body, _ = await stage.post("/tokenize", {"prompt": "naïve café", "model": MODEL})
    assert status == 200
    assert body["tokens"] == stage.text.encode("naïve café")
    assert (body["count"], body["max_model_len"]) == (len(body["tokens"]), 1024)
    assert body["token_strs"] is None
    await stage.post("/v1/completions", {"prompt": "naïve café"})
    assert stage.verifier.requests[0].prompt == body["tokens"]


async def test_a_chat_is_tokenized_by_the_template(stage: Stage) -> None:
    _, body, _ = await stage.post("/tokenize", {"messages": HELLO, "return_token_strs": True})
    await stage.post("/v1/chat/completions", {"messages": HELLO})
    assert stage.verifier.requests[0].prompt == body["tokens"]
    assert body["token_strs"][0] == "<|im_start|>"
    assert len(body["token_strs"]) == body["count"]


async def test_tokens_become_the_text_with_its_markers(stage: Stage) -> None:
    text = f"def f(x):{END}\n"
    status, body, _ = await stage.post("/detokenize", {"tokens": stage.text.encode(text)})
    assert (status, body) == (200, {"prompt": text})
    assert (await stage.post("/detokenize", {"tokens": []}))[1] == {"prompt": ""}


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=60))
def test_what_is_detokenized_is_what_was_tokenized(text_model: TextModel, text: str) -> None:
    assert text_model.decode(text_model.encode(text), with_markers=True) == text


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/tokenize", {}, 400, "prompt or messages are needed"),
        ("/tokenize", {"prompt": "x", "messages": HELLO}, 400, "one of the two"),
        ("/tokenize", {"prompt": "x", "model": "gpt-9"}, 404, "does not exist"),
        ("/tokenize", {"prompt": 7}, 400, "prompt"),
        ("/detokenize", {"tokens": [9999]}, 400, "token ids must be below"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens[0]"),
        ("/detokenize", {"tokens": [1], "skip": True}, 400, "unknown field 'skip'"),
        ("/detokenize", {}, 400, "tokens: Field required"),
    ],
)
async def test_what_cannot_be_is_refused(
    stage: Stage, path: str, body: dict, status: int, words: str
) -> None:
    got, answer, _ = await stage.post(path, body)
    assert got == status
    assert words in answer["error"]["message"]


async def test_a_model_is_told_by_its_name(stage: Stage) -> None:
    async with stage.http.get(f"{stage.url}/v1/models/{MODEL}") as response:
        body = await response.json()
        assert (body["id"], body["object"], body["verifiers"]) == (MODEL, "model", 1)
    async with stage.http.get(f"{stage.url}/v1/models/org/gpt-9") as response:
        assert response.status == 404
        assert "'org/gpt-9' does not exist; there is talker" in await response.text()


async def test_info_tells_model_instances_and_limits(stage: Stage) -> None:
    async with stage.http.get(f"{stage.url}/v1/info") as response:
        body = await response.json()
    assert body["version"] == VERSION
    assert body["model"] == {
        "id": MODEL,
        "max_model_len": 1024,
        "vocab_size": stage.text.manifest.vocab_size,
        "eos_token_ids": [1],
        "has_chat_template": True,
    }
    assert body["instances"]["verifier"] == {MODEL: 1}
    assert body["instances"]["gateway"] == {MODEL: 1}
    assert body["instances"]["drafter"] == {}
    assert min(body["limits"].values()) > 0


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


async def test_an_echoed_prompt_leads_the_text(stage: Stage) -> None:
    asked = {"prompt": ["One ", "Two "], "echo": True, "max_tokens": 50, "n": 2}
    words = stage.verifier.words
    for prompt in (asked["prompt"], [stage.text.encode(text) for text in ("One ", "Two ")]):
        _, body, _ = await stage.post("/v1/completions", {**asked, "prompt": prompt})
        texts = [choice["text"] for choice in body["choices"]]
        assert texts == [f"One {words}"] * 2 + [f"Two {words}"] * 2
    events = await stage.stream("/v1/completions", {**asked, "prompt": "One ", "n": 1})
    assert "".join(e["choices"][0]["text"] for e in events) == f"One {words}"


async def test_stop_strings_are_not_looked_for_in_an_echo(stage: Stage) -> None:
    asked = {"prompt": "quick, ", "echo": True, "max_tokens": 50, "stop": ["quick"]}
    _, body, _ = await stage.post("/v1/completions", asked)
    assert body["choices"][0]["text"] == "quick, The "
