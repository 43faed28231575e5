"""A real gateway over HTTP, and a verifier of the test's own that says what it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from services.gateway.config import GatewayConfig
from services.gateway.service import GatewayService
from services.gateway.text import TextModel
from shared.bus import connect
from shared.bus.base import Bus
from shared.config import BusConfig
from shared.generation import Logprobs, Times
from shared.lm.manifest import FORMAT, Manifest
from shared.messages import (
    Cancel,
    Cancelled,
    Failed,
    Finished,
    GenerateRequest,
    GenerationReport,
    PromptLogprobs,
    Tokens,
)
from shared.service import Service, Terminal
from shared.topics import batch_generate_requests, generate_requests
from tests.system import running

MODEL = "talker"
END = "<|im_end|>"
REPORT = GenerationReport(2, [(4, 4), (4, 0), (0, 0)], 1, Times(), [])
CORPUS = [
    "The quick brown fox jumps over the lazy dog. ",
    "naïve café – ",
    "def f(x):\n    return x\n",
]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the gateway reads of a model: tokenizer, template, manifest."""
    folder = tmp_path_factory.mktemp("models") / MODEL
    folder.mkdir()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|im_start|>", END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    Manifest(
        FORMAT, MODEL, "Talker", "fp32", "in-place", 1, 1, 1, 4,
        tokenizer.get_vocab_size(), 1024, [1], {},
    ).save(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def text_model(model_folder: Path) -> TextModel:
    return TextModel(model_folder)


Script = Callable[["ScriptedVerifier", GenerateRequest], Awaitable[Terminal]]


class ScriptedVerifier(Service):
    """A peer on the bus that plays a script for each request; by default it says `words`."""

    def __init__(self, bus: Bus, bus_config: BusConfig, text: TextModel) -> None:
        super().__init__("verifier", MODEL, bus, bus_config)
        self.text = text
        self.num_places = 64
        self.words = "The quick brown fox"
        self.script: Script = say
        self.requests: list[GenerateRequest] = []
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()
        self.cancels: dict[str, asyncio.Event] = {}

    async def serve(self) -> None:
        async with self.inbox(self._receive):
            await self.announce({})
            topic, low = generate_requests(MODEL), batch_generate_requests(MODEL)
            await self.consume(topic, self._play, self.num_places, low=low)

    async def prompt(self, request: GenerateRequest) -> None:
        """Tells of the prompt, if that is asked for, in two messages."""
        if request.num_prompt_logprobs is None:
            return
        told = [prompt_logprob(token, request) for token in request.prompt[1:]]
        middle = len(told) // 2
        for offset, part in ((1, told[:middle]), (1 + middle, told[middle:])):
            message = PromptLogprobs(request.request_id, self.instance_id, offset, part)
            await self.bus.send([request.reply_to], message)

    async def tokens(self, request: GenerateRequest, offset: int, tokens: list[int]) -> None:
        message = Tokens(request.request_id, self.instance_id, offset, tokens)
        await self.bus.send([request.reply_to], message)

    def cancel_of(self, request: GenerateRequest) -> asyncio.Event:
        return self.cancels.setdefault(request.request_id, asyncio.Event())

    async def _play(self, request: GenerateRequest) -> Terminal:
        self.requests.append(request)
        await self.prompt(request)
        return await self.script(self, request)

    async def _receive(self, message: object) -> None:
        assert isinstance(message, Cancel)
        self.cancels.setdefault(message.request_id, asyncio.Event()).set()
        self.cancelled.put_nowait(message.request_id)


def prompt_logprob(token: int, request: GenerateRequest) -> Logprobs:
    """What the scripted verifier tells of a prompt's token, and of the likeliest: 2, 3, ..."""
    top = list(range(2, 2 + (request.num_prompt_logprobs or 0)))
    return Logprobs(-0.01 * token, top, [-0.001 * other for other in top], token)


async def say(verifier: ScriptedVerifier, request: GenerateRequest) -> Terminal:
    """Says the words, three tokens a round, within the limit."""
    tokens = verifier.text.encode(verifier.words)
    reason = "length" if len(tokens) >= request.max_tokens else "stop"
    tokens = tokens[: request.max_tokens]
    for offset in range(0, len(tokens), 3):
        await verifier.tokens(request, offset, tokens[offset : offset + 3])
    return Finished(request.request_id, len(tokens), reason, REPORT)


async def wait_for_cancel(verifier: ScriptedVerifier, request: GenerateRequest) -> Terminal:
    """Says one token and then nothing until it is cancelled."""
    await verifier.tokens(request, 0, verifier.text.encode("The")[:1])
    await verifier.cancel_of(request).wait()
    return Cancelled(request.request_id, REPORT)


async def fail(verifier: ScriptedVerifier, request: GenerateRequest) -> Terminal:
    return Failed(request.request_id, "internal_error", "an internal error; see the logs")


@dataclass
class Stage:
    """A gateway, its scripted verifier, and an HTTP session."""

    http: aiohttp.ClientSession
    gateway: GatewayService
    verifier: ScriptedVerifier
    text: TextModel
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.gateway.port}"

    async def post(self, path: str, body: object) -> tuple[int, dict, Mapping[str, str]]:
        async with self.http.post(self.url + path, json=body) as response:
            return response.status, await response.json(), response.headers

    async def stream(self, path: str, body: dict) -> list[dict]:
        """All events of a stream, which must end with [DONE]."""
        async with self.http.post(self.url + path, json={**body, "stream": True}) as response:
            assert response.status == 200, await response.text()
            assert response.content_type == "text/event-stream"
            lines = (await response.text()).split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-2] if line[0] != ":"]


@pytest.fixture
def num_places() -> int:
    """Of the verifier; overridden by tests of many requests at a time."""
    return 64


@pytest.fixture
def gateway_settings() -> dict[str, object]:
    """Overridden by tests that need other settings."""
    return {}


@pytest.fixture
async def stage(
    model_folder: Path,
    text_model: TextModel,
    gateway_settings: dict[str, object],
    num_places: int,
) -> AsyncIterator[Stage]:
    bus_config = BusConfig()
    bus = connect(bus_config)
    config = GatewayConfig(port=0, model=model_folder, **gateway_settings)
    gateway = GatewayService(config, bus, bus_config)
    verifier = ScriptedVerifier(bus, bus_config, text_model)
    verifier.num_places = num_places
    async with (
        running(verifier),
        running(gateway),
        aiohttp.ClientSession() as http,
    ):
        yield Stage(http, gateway, verifier, text_model)
