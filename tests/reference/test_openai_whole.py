"""Clients as they are, against the shipped models as `make serve` runs them: OpenAI's with all of
its surface, and LangChain's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Literal

import numpy as np
import pytest
from pydantic import BaseModel, Field
from scipy.special import log_softmax
from tokenizers import Tokenizer

from shared.lm.decoder import Row, load_decoder
from tests.redis_server import free_port
from tests.test_serve import ROOT, read_until

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.reference
MODEL = "quorum-6m"
ASKED = [{"role": "user", "content": "What does textwrap.dedent do?"}]


class Person(BaseModel):
    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=150)
    mood: Literal["good", "bad"]


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "services"],
        cwd=ROOT,
        env={**os.environ, "GATEWAY_PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        read_until(process, '"k": 5')
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def client(url: str):
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_log_probabilities_are_the_same_with_and_without_drafts(client, temperature) -> None:
    def ask(speculation: dict[str, object]):
        return client.chat.completions.create(
            model=MODEL, messages=ASKED, max_tokens=40, temperature=temperature, seed=5,
            logprobs=True, top_logprobs=4, extra_body={"speculation": speculation},
        ).choices[0]  # fmt: skip

    plain, drafted = ask({"mode": "off"}), ask({"length": 5})
    assert plain == drafted
    content = plain.logprobs.content
    assert b"".join(bytes(entry.bytes) for entry in content).decode() == plain.message.content
    for entry in content:
        assert len(entry.top_logprobs) == 4
        assert entry.logprob <= entry.top_logprobs[0].logprob
        if temperature == 0:
            assert entry.token == entry.top_logprobs[0].token


def test_what_is_parsed_is_of_the_type(client) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=ASKED, response_format=Person, max_tokens=100
    )
    assert isinstance(answer.choices[0].message.parsed, Person)


def test_a_stream_is_parsed_too(client) -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=ASKED, response_format=Person, max_tokens=100
    ) as stream:
        events = list(stream)
        parsed = stream.get_final_completion().choices[0].message.parsed
    assert isinstance(parsed, Person)
    assert any(event.type == "content.delta" for event in events)


def test_json_is_an_object(client) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=ASKED, response_format={"type": "json_object"}, max_tokens=200,
        seed=3, temperature=0.7,
    )  # fmt: skip
    choice = answer.choices[0]
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)
    assert choice.message.content.startswith("{")


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_a_forced_call_has_arguments_of_its_schema(client, choice) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=ASKED, tools=[WEATHER], tool_choice=choice, max_tokens=150
    ).choices[0]
    assert answer.finish_reason == "tool_calls"
    for call in answer.message.tool_calls:
        assert call.function.name == "weather"
        assert set(json.loads(call.function.arguments)) == {"city"}


def test_a_streamed_call_adds_up(client) -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=ASKED, tools=[WEATHER], tool_choice="required", max_tokens=150,
        parallel_tool_calls=False,
    ) as stream:  # fmt: skip
        for _ in stream:
            pass
        (call,) = stream.get_final_completion().choices[0].message.tool_calls
    assert set(json.loads(call.function.arguments)) == {"city"}


def test_completions_tell_of_each_token(client) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="def read(", max_tokens=8, temperature=0, logprobs=3
    ).choices[0]
    assert "".join(answer.logprobs.tokens) == answer.text
    assert all(len(top) >= 3 for top in answer.logprobs.top_logprobs)


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_an_echo_is_told_as_a_plain_pass_over_the_text_has_it(client, max_tokens: int) -> None:
    """As evaluation harnesses ask. The second time its beginning is in a cache."""
    folder = ROOT / "models" / MODEL
    decoder = load_decoder(folder, max_slots=1, num_threads=1)
    encode = Tokenizer.from_file(str(folder / "tokenizer.json")).encode
    source = (ROOT / "services/verifier/logprobs.py").read_text()
    for prompt in (source, source[:1500], "def read(path):\n", "x", source):
        answer = client.completions.create(
            model=MODEL, prompt=prompt, max_tokens=max_tokens, temperature=0, echo=True, logprobs=1
        )
        choice, tokens = answer.choices[0], encode(prompt).ids
        told = choice.logprobs
        assert choice.text.startswith(prompt)
        assert answer.usage.prompt_tokens == len(tokens)
        assert answer.usage.completion_tokens == max_tokens
        assert len(told.token_logprobs) == len(tokens) + max_tokens
        assert told.token_logprobs[0] is told.top_logprobs[0] is None
        (logits,) = decoder.forward([Row(0, 0, tokens, len(tokens))])
        expected = log_softmax(logits.astype(np.float64), axis=1)
        for place in range(1, len(tokens)):
            row, token = expected[place - 1], tokens[place]
            assert told.token_logprobs[place] == pytest.approx(row[token], abs=1e-9)
            assert max(told.top_logprobs[place].values()) == pytest.approx(row.max(), abs=1e-9)
        for start, text in zip(told.text_offset, told.tokens, strict=True):
            assert choice.text.startswith(text, start)


def test_an_answer_is_told_alike_as_an_answer_and_as_a_prompt(client) -> None:
    """To the bit; in a stream as well."""
    ask = partial(client.completions.create, model=MODEL, temperature=0, logprobs=2)
    first = ask(prompt="def read(", max_tokens=30).choices[0].logprobs
    text = "def read(" + "".join(first.tokens)
    again = ask(prompt=text, max_tokens=0, echo=True).choices[0].logprobs
    assert again.tokens[-len(first.tokens) :] == first.tokens
    assert again.token_logprobs[-len(first.tokens) :] == first.token_logprobs
    parts = list(ask(prompt=text, max_tokens=3, echo=True, stream=True))
    streamed = [lp for part in parts for lp in part.choices[0].logprobs.token_logprobs]
    assert streamed[: len(again.tokens)] == again.token_logprobs
    assert len(streamed) == len(again.tokens) + 3


def test_fewest_tokens_are_written(client) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="x", max_tokens=64, seed=1, extra_body={"min_tokens": 50}
    )
    assert answer.usage.completion_tokens >= 50


def test_langchain_chats_streams_and_calls(url: str) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(
        base_url=url, api_key="none", model=MODEL, max_tokens=150, temperature=0.0, max_retries=0
    )
    whole = model.invoke("What does textwrap.dedent do?")
    assert whole.content
    assert whole.response_metadata["finish_reason"] in ("stop", "length")
    streamed = "".join(chunk.content for chunk in model.stream("What does textwrap.dedent do?"))
    assert streamed == whole.content
    (call,) = model.bind_tools([WEATHER], tool_choice="weather").invoke("How is Bonn?").tool_calls
    assert (call["name"], set(call["args"])) == ("weather", {"city"})
    person = model.with_structured_output(Person, method="json_schema").invoke("Who?")
    assert isinstance(person, Person)
