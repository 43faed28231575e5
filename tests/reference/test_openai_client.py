"""OpenAI's own client, unchanged, against the gateway."""

from __future__ import annotations

import asyncio

import pytest

from tests.gateway.conftest import (  # noqa: F401 - fixtures
    MODEL,
    Stage,
    gateway_settings,
    model_folder,
    num_places,
    stage,
    text_model,
    wait_for_cancel,
)

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.reference
TEXT = "The quick brown fox"
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
async def client(stage: Stage):  # noqa: F811
    async with openai.AsyncOpenAI(
        base_url=f"{stage.url}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


async def test_it_completes(client) -> None:
    answer = await client.completions.create(model=MODEL, prompt="Say", max_tokens=50, seed=3)
    assert answer.choices[0].text == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_it_chats(client) -> None:
    answer = await client.chat.completions.create(
        model=MODEL, messages=HELLO, max_completion_tokens=50, temperature=0.5, top_p=0.9
    )
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == TEXT


async def test_it_streams_completions_and_chats_with_usage(client) -> None:
    text, usage = "", None
    async for chunk in await client.completions.create(
        model=MODEL, prompt="Say", max_tokens=50, stream=True
    ):
        text += chunk.choices[0].text
    assert text == TEXT
    text = ""
    async for chunk in await client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=50,
        stream=True,
        stream_options={"include_usage": True},
    ):
        text += chunk.choices[0].delta.content or "" if chunk.choices else ""
        usage = chunk.usage or usage
    assert text == TEXT
    assert usage.completion_tokens > 0


async def test_the_synchronous_client_works_too(stage: Stage) -> None:  # noqa: F811
    def ask() -> str:
        with openai.OpenAI(base_url=f"{stage.url}/v1", api_key="none") as client:
            answer = client.completions.create(model=MODEL, prompt="Say", max_tokens=50)
            return str(answer.choices[0].text)

    assert await asyncio.to_thread(ask) == TEXT


async def test_it_lists_models(client) -> None:
    models = await client.models.list()
    assert [model.id for model in models.data] == [MODEL]


async def test_it_finds_one_model(client) -> None:
    assert (await client.models.retrieve(MODEL)).id == MODEL
    with pytest.raises(openai.NotFoundError, match="'gpt-9' does not exist; there is talker"):
        await client.models.retrieve("gpt-9")


async def test_a_prompt_is_echoed(client) -> None:
    answer = await client.completions.create(model=MODEL, prompt="One ", echo=True, max_tokens=50)
    assert answer.choices[0].text == "One The quick brown fox"


async def test_its_own_fields_of_ours_travel_in_extra_body(client) -> None:
    answer = await client.completions.create(
        model=MODEL, prompt="Say", extra_body={"return_speculation": True, "top_k": 4}
    )
    assert answer.model_extra["metrics"]["speculative_decoding"]["num_spec_steps"] == 2


async def test_a_bad_request_is_its_bad_request_error(client) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model=MODEL, prompt="Say", temperature=9)
    assert caught.value.param == "temperature"
    assert caught.value.type == "invalid_request_error"


async def test_an_unknown_model_is_its_not_found_error(client) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.completions.create(model="gpt-9", prompt="Say")
    assert caught.value.code == "model_not_found"


class TestFull:
    @pytest.fixture
    def gateway_settings(self) -> dict[str, object]:
        return {"max_in_flight": 1}

    async def test_a_full_house_is_its_rate_limit_error(
        self,
        stage: Stage,  # noqa: F811
        client,
    ) -> None:
        stage.verifier.script = wait_for_cancel
        stream = await client.completions.create(model=MODEL, prompt="Say", stream=True)
        with pytest.raises(openai.RateLimitError) as caught:
            await client.completions.create(model=MODEL, prompt="Say")
        assert caught.value.code == "rate_limit_exceeded"
        assert int(caught.value.response.headers["retry-after"]) >= 1
        await stream.close()
