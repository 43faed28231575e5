"""Several targets side by side, added, replaced and removed while the system serves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from models import library
from services.drafter.config import DrafterConfig
from services.drafter.service import build as build_drafters
from services.gateway import service as gateway_service
from services.gateway.config import GatewayConfig
from services.gateway.service import GatewayService
from services.gateway.text import TextModel
from services.verifier import service as verifier_service
from services.verifier.config import VerifierConfig
from services.verifier.service import build as build_verifiers
from services.voter.config import VoterConfig
from services.voter.service import build as build_voters
from shared import hosting
from shared.bus import connect
from shared.config import BusConfig
from shared.generation import Sampling
from shared.lm.decoder import load_decoder
from tests.system import decode_plainly, running
from tests.toy import write_toy, write_toy_tokenizer

GREEDY = Sampling(temperature=0.0)
PROMPT = [40, 41, 42, 50]
NUM_TOKENS = 48
PATIENCE_S = 60.0


def quiet(_: str) -> None:
    """What the library says of its work."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported models, from which those that are served are added."""
    root = tmp_path_factory.mktemp("sources")
    for name, seed, noise in (
        ("one", 1, 0.0), ("one-draft", 1, 0.05), ("two", 2, 0.0), ("two-draft", 2, 0.05),
    ):  # fmt: skip
        write_toy_tokenizer(write_toy(root / name, seed=seed, noise=noise))
    return root


@pytest.fixture(scope="module")
def texts(sources: Path) -> Callable[[str], str]:
    """What each target says by itself."""

    def say(name: str) -> str:
        decoder = load_decoder(sources / name, max_slots=1, num_threads=1)
        tokens = decode_plainly(decoder, PROMPT, NUM_TOKENS, GREEDY)
        return TextModel(sources / name).decode(tokens)

    said = {name: say(name) for name in ("one", "two")}
    assert said["one"] != said["two"]
    return said.__getitem__


@dataclass
class House:
    """A running system, all of whose models are those of one folder."""

    http: aiohttp.ClientSession
    gateway: GatewayService
    models: Path
    sources: Path

    def add(self, name: str, source: str, force: bool = False) -> None:
        drafter = f"{name}-draft={self.sources / f'{source}-draft'}"
        target = str(self.sources / source)
        library.add(target, [drafter], self.models, name=name, force=force, say=quiet)

    async def ask(self, **changes: object) -> tuple[int, dict[str, object]]:
        body = {"prompt": PROMPT, "max_tokens": NUM_TOKENS, "temperature": 0, "ignore_eos": True}
        url = f"http://127.0.0.1:{self.gateway.port}/v1/completions"
        async with self.http.post(url, json={**body, **changes}) as response:
            return response.status, await response.json()

    async def text(self, **changes: object) -> str:
        status, answer = await self.ask(**changes)
        assert status == 200, answer
        return str(answer["choices"][0]["text"])  # type: ignore[index]

    async def listed(self) -> dict[str, tuple[int, list[str]]]:
        """Each target with the number of its verifiers and its draft models."""
        async with self.http.get(f"http://127.0.0.1:{self.gateway.port}/v1/models") as response:
            entries = (await response.json())["data"]
        return {entry["id"]: (entry["verifiers"], entry["drafters"]) for entry in entries}

    async def until(self, **wanted: Sequence[str]) -> None:
        """Waits until just these targets are served, with these draft models."""
        expected = {name: (1, sorted(drafters)) for name, drafters in wanted.items()}
        async with asyncio.timeout(PATIENCE_S):
            while await self.listed() != expected:
                await self.gateway.registry.refresh()


@pytest.fixture
async def house(
    sources: Path, tmp_path: Path, bus_config: BusConfig, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    for module in (hosting, gateway_service, verifier_service):
        monkeypatch.setattr(module, "POLL_S", 0.05)
    models = tmp_path / "models"
    library.add(str(sources / "one"), [str(sources / "one-draft")], models, say=quiet)
    bus = connect(bus_config)
    gateway = GatewayService(GatewayConfig(port=0, model=models), bus, bus_config)
    verifier = VerifierConfig(model=models, num_threads=1, max_batch=2, drafting="all")
    services = [
        *build_verifiers(verifier, bus, bus_config),
        *build_voters(VoterConfig(), bus, bus_config),
        *build_drafters(DrafterConfig(models=f"{models},ngram"), bus, bus_config),
    ]
    async with running(*services, gateway), aiohttp.ClientSession() as http:
        yield House(http, gateway, models, sources)
    await bus.close()


async def test_a_target_is_added_while_another_one_answers(
    house: House, texts: Callable[[str], str]
) -> None:
    await house.until(one=["ngram", "one-draft"])
    is_over = asyncio.Event()

    async def keep_asking() -> int:
        count = 0
        while not is_over.is_set():
            assert await house.text() == texts("one")
            count += 1
        return count

    asking = [asyncio.create_task(keep_asking()) for _ in range(3)]
    await asyncio.to_thread(house.add, "two", "two")
    await house.until(one=["ngram", "one-draft"], two=["ngram", "two-draft"])
    assert await house.text(model="two") == texts("two")
    assert await house.text(model="one") == texts("one")
    is_over.set()
    assert min(await asyncio.gather(*asking)) > 0


async def test_each_target_is_drafted_for_by_its_own(house: House) -> None:
    await asyncio.to_thread(house.add, "two", "two")
    await house.until(one=["ngram", "one-draft"], two=["ngram", "two-draft"])
    for model, other in (("one", "two"), ("two", "one")):
        # The verifier sees a draft model a little before or after the gateway does.
        told = ""
        async with asyncio.timeout(PATIENCE_S):
            while f"{model}-draft" not in told:
                status, answer = await house.ask(model=model, return_speculation=True)
                assert status == 200
                told = json.dumps(answer["metrics"])
                assert f"{other}-draft" not in told
    status, answer = await house.ask(model="two", speculation={"drafters": ["one-draft"]})
    assert status == 400
    assert "no drafter 'one-draft' is live; there is ngram, two-draft" in json.dumps(answer)


async def test_a_target_that_is_removed_ends_what_it_has_and_what_waits_for_it(
    house: House, texts: Callable[[str], str]
) -> None:
    await asyncio.to_thread(house.add, "two", "two")
    await house.until(one=["ngram", "one-draft"], two=["ngram", "two-draft"])
    # Two of them are in work at a time; the others wait.
    asking = [asyncio.create_task(house.text(model="two")) for _ in range(12)]
    await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.to_thread(library.remove, "two", house.models)
    assert await asyncio.gather(*asking) == [texts("two")] * 12
    await house.until(one=["ngram", "one-draft"])
    status, answer = await house.ask(model="two")
    assert status == 404
    assert "model 'two' does not exist; there is one" in json.dumps(answer)
    async with asyncio.timeout(PATIENCE_S):
        while house.gateway.registry.live("verifier", "two"):
            await house.gateway.registry.changed()
    assert await house.text() == texts("one")


async def test_a_target_that_is_replaced_answers_as_its_successor(
    house: House, texts: Callable[[str], str]
) -> None:
    await house.until(one=["ngram", "one-draft"])
    (before,) = house.gateway.registry.live("verifier")
    asking = [asyncio.create_task(house.text()) for _ in range(8)]
    await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.to_thread(house.add, "one", "two", force=True)
    said = await asyncio.gather(*asking)
    assert set(said) <= {texts("one"), texts("two")}
    async with asyncio.timeout(PATIENCE_S):
        while before in house.gateway.registry.live("verifier"):
            await house.gateway.registry.changed()
    assert await house.text() == texts("two")


async def test_a_list_with_a_mistake_changes_nothing(
    house: House, texts: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    before = (house.models / "served.json").read_text()
    (house.models / "served.json").write_text("{")
    async with asyncio.timeout(PATIENCE_S):
        while len({r.name for r in caplog.records if "is no JSON" in r.getMessage()}) < 2:
            assert await house.text() == texts("one")
    (house.models / "served.json").write_text(before)
    await asyncio.to_thread(house.add, "two", "two")
    await house.until(one=["ngram", "one-draft"], two=["ngram", "two-draft"])


async def test_an_empty_list_serves_nothing_until_there_is_something(
    house: House, texts: Callable[[str], str]
) -> None:
    await asyncio.to_thread(library.remove, "one", house.models)
    await house.until()
    status, answer = await house.ask()
    assert (status, "no model is served at present" in json.dumps(answer)) == (404, True)
    await asyncio.to_thread(house.add, "two", "two")
    await house.until(two=["ngram", "two-draft"])
    assert await house.text() == texts("two")
