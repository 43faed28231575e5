"""Speculation changes no token: texts equal plain decoding of the target alone, exactly.

The whole generation path runs: verifier, voter and drafters as services on a bus, with models of
known disagreement. The reference decodes one token a pass, one request alone, without any of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from services.drafter.config import DrafterConfig
from services.drafter.service import build as build_drafters
from services.verifier.config import VerifierConfig
from services.verifier.service import VerifierService
from services.voter.config import VoterConfig
from services.voter.service import build as build_voters
from shared.bus import connect
from shared.config import BusConfig
from shared.generation import Sampling
from shared.lm.decoder import load_decoder
from shared.messages import Finished
from shared.service import Service
from shared.wire import replace
from tests.redis_server import RedisServer
from tests.system import Client, decode_plainly, running
from tests.toy import VOCAB_SIZE, write_toy

NUM_PROMPTS, NUM_TOKENS = 200, 24
SAMPLINGS = (
    Sampling(temperature=0.0),
    Sampling(temperature=0.8),
    Sampling(temperature=1.0, top_p=0.95),
)
PENALISED = Sampling(
    temperature=0.9,
    top_k=40,
    min_p=0.01,
    presence_penalty=0.4,
    frequency_penalty=0.3,
    repetition_penalty=1.1,
    logit_bias={7: 2.0, 33: -3.0},
)
ALL = "small,wide,ngram,suffix"


@dataclass(frozen=True)
class Case:
    """A way to run the same requests."""

    name: str
    drafters: str = ALL
    num_cases: int = 60
    verifier: dict[str, object] = field(default_factory=dict)
    voter: dict[str, object] = field(default_factory=lambda: {"fixed_length": 4})
    """A fixed length, whole, by all: it may be that drafts do not pay on this machine."""
    bus: str = "memory"
    min_acceptance: float = 1.2
    """Mean acceptance length: a test in which nothing is accepted would show little."""
    reuses: bool = True
    """Whether beginnings that prompts share are to be computed once."""


CASES = [
    Case("all drafters", num_cases=NUM_PROMPTS * len(SAMPLINGS)),
    Case("no drafter", drafters="", min_acceptance=1.0),
    Case("one drafter", drafters="small"),
    Case("lookup alone", drafters="ngram,suffix", min_acceptance=1.0),
    Case("heaviest path", voter={"walk": "heaviest-path", "fixed_length": 6}),
    Case("lengths by chance and price", voter={}, min_acceptance=1.0),
    Case("drafted as needed", verifier={"drafting": "needed"}),
    Case("drafted ahead", verifier={"drafting": "ahead"}),
    Case("two lanes", verifier={"drafting": "lanes"}),
    Case("whatever pays", voter={}, verifier={"drafting": "auto"}, min_acceptance=1.0),
    Case("climbing length", voter={"length": "climb", "decision_threshold": 2}, min_acceptance=1.0),
    Case("greedy walk", voter={"walk": "greedy", "fixed_length": 4}),
    Case("length 1", voter={"fixed_length": 1}, verifier={"speculation_length": 1}),
    Case("length 12", voter={"fixed_length": 12}, verifier={"speculation_length": 12}),
    Case("one at a time", verifier={"max_batch": 1}, num_cases=24),
    Case("tiny prefill chunks", verifier={"prefill_tokens": 3}),
    Case("no prefix cache", verifier={"prefix_cache_mb": 0}, reuses=False),
    Case("no time for drafts", verifier={"draft_timeout_s": 1e-6}, min_acceptance=1.0),
    Case("over Redis", bus="redis"),
]


@dataclass(frozen=True)
class Family:
    """Model folders of one precision, and the texts that the target writes alone."""

    folder: Path
    prompts: Sequence[list[int]]
    texts: Sequence[list[int]]
    samplings: Sequence[Sampling]


@pytest.fixture(scope="module", params=["fp32", "int8"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp(request.param)
    write_toy(folder / "target", precision=request.param)
    write_toy(folder / "small", noise=0.08)
    write_toy(folder / "wide", noise=0.05)
    rng = np.random.default_rng(5)
    # Every other one begins with one of three system prompts.
    systems = [rng.integers(2, VOCAB_SIZE, length).tolist() for length in (33, 64, 90)]
    prompts = [
        (systems[number % 3] if number % 2 else [])
        + rng.integers(2, VOCAB_SIZE, rng.integers(1, 60)).tolist()
        for number in range(NUM_PROMPTS)
    ]
    return write_texts(folder, prompts)


def write_texts(folder: Path, prompts: Sequence[list[int]]) -> Family:
    """The reference: each prompt with each sampling, and now and then with penalties too."""
    decoder = load_decoder(folder / "target", max_slots=1, num_threads=1)
    cases = [
        (prompt, replace(sampling, seed=number))
        for number, prompt in enumerate(prompts)
        for sampling in (*SAMPLINGS, *([PENALISED] if number % 10 == 0 else []))
    ]
    texts = [decode_plainly(decoder, prompt, NUM_TOKENS, sampling) for prompt, sampling in cases]
    return Family(folder, [prompt for prompt, _ in cases], texts, [s for _, s in cases])


@asynccontextmanager
async def system(
    family: Family, case: Case, bus_config: BusConfig
) -> AsyncIterator[Callable[[], Client]]:
    bus = connect(bus_config)
    verifier = VerifierConfig(
        model=family.folder / "target",
        num_threads=1,
        **{"max_batch": 8, "draft_timeout_s": 2.0, "self_test": False, "drafting": "all"}
        | case.verifier,
    )
    target = VerifierService(verifier, bus, bus_config)
    services: list[Service] = [
        target,
        *build_voters(VoterConfig(**case.voter), bus, bus_config),
    ]
    if case.drafters:
        folders = [
            str(family.folder / name) if (family.folder / name).exists() else name
            for name in case.drafters.split(",")
        ]
        services += build_drafters(DrafterConfig(models=",".join(folders)), bus, bus_config)
    async with running(*services):
        # The verifier must have seen all of them, or it decodes plainly at first.
        while len(target.registry.live("drafter")) < len(services) - 2:
            await target.registry.changed()
        yield lambda: Client(bus, target.name)
    await bus.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_texts_equal_plain_decoding(
    family: Family, case: Case, request: pytest.FixtureRequest
) -> None:
    config = BusConfig(key_prefix=f"lossless-{family.folder.name}-{case.name.replace(' ', '-')}")
    if case.bus == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        config = config.model_copy(update={"url": server.url})
    await check(family, case, config)


async def check(family: Family, case: Case, config: BusConfig) -> None:
    """Runs the case's share of the requests, all at once, and compares."""
    step = max(1, len(family.prompts) // case.num_cases)
    chosen = range(0, len(family.prompts), step)
    async with system(family, case, config) as client_of, client_of().connected() as client:
        answers = await asyncio.gather(
            *(client.generate(family.prompts[n], NUM_TOKENS, family.samplings[n]) for n in chosen)
        )
    for n, (tokens, _) in zip(chosen, answers, strict=True):
        assert family.texts[n] == tokens, (n, family.samplings[n])
    assert mean_acceptance_length([finished for _, finished in answers]) >= case.min_acceptance
    assert any(finished.report.num_reused_tokens for _, finished in answers) == case.reuses


def mean_acceptance_length(answers: Sequence[Finished]) -> float:
    rounds = [r for finished in answers for r in finished.report.per_round]
    return 1 + sum(accepted for _, accepted in rounds) / len(rounds)
