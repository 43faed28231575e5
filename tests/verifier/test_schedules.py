"""Ten thousand random schedules: whatever comes when, is late, lost, cut, rewound, moved or taken
over, each request gets the tokens of plain decoding, and of its prompt what is to be told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from random import Random

import numpy as np
import pytest

from services.verifier.batch import Limits
from services.verifier.drafting import Way
from services.verifier.engine import Engine
from services.verifier.logprobs import logprobs
from services.verifier.pass_cost import PassCost
from services.verifier.prefix_cache import PrefixCache
from services.verifier.session import Session
from shared.generation import Logprobs, Sampling
from shared.lm.decoder import FloatArray, Row
from shared.lm.manifest import FORMAT, Manifest
from shared.lm.sampling import Place, draw
from shared.messages import GenerateRequest

NUM_SCHEDULES, PER_TEST = 10_000, 500
VOCAB_SIZE, NUM_SLOTS, MAX_CONTEXT = 7, 4, 64
SAMPLINGS = (
    Sampling(temperature=0.0),
    Sampling(temperature=0.9, seed=4),
    Sampling(temperature=1.0, top_k=3, presence_penalty=0.5, repetition_penalty=1.2, seed=5),
)


@cache
def logits_after(tail: tuple[int, ...], length: int) -> FloatArray:
    """The toy target's: a fixed function of the last three tokens and of how many there are."""
    seed = sum((token + 1) * 11**place for place, token in enumerate(tail)) * 97 + length
    return np.random.default_rng(seed).normal(0, 2, VOCAB_SIZE).astype(np.float32)


class ToyTarget:
    """A decoder with a real cache: logits come from what its slots hold, so that a token which was
    not written, or not overwritten, or moved wrongly, changes them."""

    def __init__(self) -> None:
        self.manifest = Manifest(
            FORMAT, "toy", "Toy", "fp32", "in-place", 1, 1, 1, 1, VOCAB_SIZE, MAX_CONTEXT, [], {}
        )
        self.max_slots = NUM_SLOTS
        self._slots = [[-1] * 2 * MAX_CONTEXT for _ in range(NUM_SLOTS)]

    def forward(self, rows: Sequence[Row]) -> list[FloatArray]:
        assert len({row.slot for row in rows}) == len(rows)
        found = []
        for row in rows:
            slot = self._slots[row.slot]
            end = row.start + len(row.tokens)
            slot[row.start : end] = row.tokens
            assert -1 not in slot[:end]
            ends = range(end - row.num_logits + 1, end + 1)
            logits = [logits_after(tuple(slot[max(0, e - 3) : e]), e) for e in ends]
            found.append(np.array(logits, np.float32).reshape(-1, VOCAB_SIZE))
        return found

    def move(self, source: int, target: int, length: int) -> None:
        self._slots[target][:length] = self._slots[source][:length]
        self._slots[source] = [-1] * 2 * MAX_CONTEXT

    def free(self, first: int) -> None:
        self._slots[first:] = [[-1] * 2 * MAX_CONTEXT for _ in self._slots[first:]]

    def read(self, slot: int, start: int, end: int) -> FloatArray:
        assert -1 not in self._slots[slot][start:end]
        return np.array(self._slots[slot][start:end], np.float32)[None, None, :, None]

    def write(self, slot: int, start: int, block: FloatArray) -> None:
        self._slots[slot][start : start + block.shape[2]] = block.ravel().astype(int).tolist()


def plain(request: GenerateRequest) -> list[int]:
    tokens = list(request.prompt)
    while len(tokens) < len(request.prompt) + request.max_tokens:
        place = Place(request.sampling, tokens, len(tokens), len(request.prompt))
        tokens += draw(logits_after(tuple(tokens[-3:]), len(tokens))[None], [place]).tolist()
    return tokens[len(request.prompt) :]


def told_plainly(request: GenerateRequest) -> list[Logprobs]:
    prompt, num_top = request.prompt, request.num_prompt_logprobs
    if num_top is None:
        return []
    found = []
    for end in range(1, len(prompt)):
        logits = logits_after(tuple(prompt[max(0, end - 3) : end]), end)
        found += logprobs(logits[None], [prompt[end]], num_top)
    return found


class Schedule:
    """One random course of some requests on one engine."""

    def __init__(self, seed: int) -> None:
        self._random = random = Random(seed)
        drafters = random.choice(("all", "none"))
        self._engine = Engine(
            ToyTarget(),
            PassCost(
                {2: 1.0, 64: random.uniform(1.0, 62.0)},
                telling_s=random.choice((0.0, 1.0, 9.0)),
                padding_s=random.choice((0.0, 0.2, 2.0)),
            ),
            Limits(random.randint(2, 9), random.uniform(0.1, 9.0)),
            PrefixCache(random.choice((0, 20, 100, 10_000)), random.randint(1, 5)),
            [Way(drafters, lanes) for lanes in random.choice(((1,), (2,), (1, 2)))],
        )
        self._seats = asyncio.Semaphore(NUM_SLOTS)
        self._texts = [[]]
        """What prompts may begin with."""

    async def run(self) -> None:
        random = self._random
        passes = asyncio.create_task(self._engine.run())
        try:
            requests = [self._request(n) for n in range(random.randint(1, 6))]
            await asyncio.wait_for(asyncio.gather(*map(self._serve, requests)), 20)
        finally:
            passes.cancel()
            await asyncio.wait([passes])
            self._engine.close()

    def _request(self, number: int) -> GenerateRequest:
        random = self._random
        prompt = random.choice(self._texts)[: random.randint(0, 14)]
        prompt += [random.randrange(VOCAB_SIZE) for _ in range(random.randint(1, 20 - len(prompt)))]
        self._texts.append(prompt)
        sampling = random.choice(SAMPLINGS)
        return GenerateRequest(
            str(number), "x", prompt, random.randint(1, 14), sampling, [], 0.0,
            num_prompt_logprobs=random.choice((None, None, 0, 2)),
        )  # fmt: skip

    async def _serve(self, request: GenerateRequest) -> None:
        expected = plain(request)
        told: list[Logprobs] = []
        given_up = self._random.random() < 0.3
        await self._pause()
        async with self._seats:
            session = Session(request, 0)
            with self._engine.seat(session):
                while session.reason is None:
                    told += await self._round(session, expected)
                    assert (
                        session.tokens[session.num_prompt_tokens :]
                        == (expected[: session.num_output_tokens])
                    )
                    if given_up and self._random.random() < 0.2:
                        break
            if session.num_output_tokens:
                assert told == told_plainly(request)
        if session.reason is None:
            # Its verifier is gone: another one begins anew.
            await self._serve(request)

    async def _round(self, session: Session, expected: list[int]) -> list[Logprobs]:
        """A chunk of the prompt, and what is told of it; or a draft that is right, wrong, short,
        long or lost."""
        random = self._random
        if session.num_uncached > 1:
            return await self._engine.prefill(session)
        await self._pause()
        right = expected[session.num_output_tokens :]
        draft = [t if random.random() < 0.8 else random.randrange(VOCAB_SIZE) for t in right]
        draft = draft[: random.randint(0, 6)]
        survival = sorted((random.random() for _ in draft), reverse=True)
        known = survival if random.random() < 0.7 else []
        verified = await self._engine.verify(session, draft, known)
        session.emit(verified.tokens)
        return []

    async def _pause(self) -> None:
        for _ in range(self._random.randint(0, 6)):
            await asyncio.sleep(0)


@pytest.mark.parametrize("first", range(0, NUM_SCHEDULES, PER_TEST))
async def test_every_schedule_gives_the_tokens_of_plain_decoding(first: int) -> None:
    for seed in range(first, first + PER_TEST):
        try:
            await Schedule(seed).run()
        except BaseException as error:
            error.add_note(f"schedule {seed}")
            raise
