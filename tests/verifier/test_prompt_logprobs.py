"""What is told of a prompt's tokens is what one pass over the whole text says, to the bit: in any
chunks and company, whatever a cache knows, whoever takes over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy.special import log_softmax

from services.verifier.batch import Job, Limits, Verified, compose
from services.verifier.config import VerifierConfig
from services.verifier.engine import LOGITS_BYTES, Engine, measure_cost
from services.verifier.logprobs import logprobs
from services.verifier.pass_cost import PassCost
from services.verifier.prefix_cache import PrefixCache
from services.verifier.relay import MAX_TOLD, Emitted, relay
from services.verifier.service import VerifierService
from services.verifier.session import Session
from shared.bus.memory import MemoryBus
from shared.codec import MAX_MESSAGE_BYTES, encode
from shared.config import BusConfig
from shared.generation import Logprobs, Sampling
from shared.lm.decoder import Decoder, Row, load_decoder
from shared.lm.manifest import FORMAT, Manifest, checksum
from shared.messages import GenerateRequest, PromptLogprobs, Tokens
from shared.wire import replace
from tests.system import Answer, Client, decode_plainly, running
from tests.toy import MAX_CONTEXT, VOCAB_SIZE, write_toy

GREEDY = Sampling(temperature=0.0)
NUM_TOP, NUM_SLOTS = 3, 6
CHUNKS = (2, 3, 7, 16, 64, 255, 256)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy") / "target")


@pytest.fixture(scope="module")
def alone(folder: Path) -> Decoder:
    """For references."""
    return load_decoder(folder, max_slots=1, num_threads=1)


@pytest.fixture(scope="module", params=["fp32", "int8"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy") / "target", precision=request.param)


@pytest.fixture(scope="module")
def decoder(target: Path) -> Decoder:
    return load_decoder(target, max_slots=NUM_SLOTS, num_threads=2)


@pytest.fixture(scope="module")
def whole(target: Path) -> Callable[[tuple[int, ...]], list[Logprobs]]:
    """The reference, of a decoder of its own."""
    alone = load_decoder(target, max_slots=1, num_threads=1)
    return cache(lambda text: told_whole(alone, text))


def told_whole(decoder: Decoder, text: Sequence[int]) -> list[Logprobs]:
    """What one pass over a text alone tells of it."""
    (logits,) = decoder.forward([Row(0, 0, list(text), len(text))])
    return logprobs(logits, list(text[1:]), NUM_TOP)


def request_of(prompt: Sequence[int], *, told: bool = True, max_tokens: int = 4) -> GenerateRequest:
    number = NUM_TOP if told else None
    return GenerateRequest(
        "r", "x", list(prompt), max_tokens, GREEDY, [], 0.0, num_prompt_logprobs=number
    )


async def serve(engine: Engine, request: GenerateRequest) -> list[Logprobs]:
    """What is told of its prompt, then its tokens."""
    session, told = Session(request, 0), []
    with engine.seat(session):
        while session.num_uncached > 1:
            told += await engine.prefill(session)
        while session.num_remaining_tokens:
            session.emit((await engine.verify(session, [], [])).tokens)
    return told


@pytest.mark.parametrize("cached", [0, 1 << 24])
@pytest.mark.parametrize("chunk", CHUNKS)
async def test_it_is_the_same_bits_in_any_chunks_and_company(
    decoder: Decoder,
    whole: Callable[[tuple[int, ...]], list[Logprobs]],
    chunk: int,
    cached: int,
) -> None:
    """Prompts that share beginnings, twice each, told and untold, beside others that decode."""
    random = Random(chunk)
    beginning = [random.randrange(VOCAB_SIZE) for _ in range(80)]
    texts = [
        (beginning[: random.choice((0, 33, 80))] + [random.randrange(VOCAB_SIZE) for _ in range(n)])
        for n in (1, 2, 3, 20, 64, 130, 300)
    ]
    cost = PassCost({2: 1.0, 1000: 999.0})
    engine = Engine(decoder, cost, Limits(chunk, 1000.0), PrefixCache(cached, 8))
    running = asyncio.create_task(engine.run())
    seats = asyncio.Semaphore(NUM_SLOTS)

    async def one(text: list[int], told: bool) -> None:
        async with seats:
            found = await serve(engine, request_of(text, told=told))
        assert found == (whole(tuple(text)) if told else [])

    try:
        await asyncio.gather(*(one(text, n % 3 > 0) for n in range(3) for text in texts))
        for text in texts:
            await one(text, True)
    finally:
        running.cancel()
        await asyncio.wait([running])
        engine.close()


def test_the_reference_is_what_scipy_says(alone: Decoder) -> None:
    text = np.random.default_rng(1).integers(0, VOCAB_SIZE, 200).tolist()
    (logits,) = alone.forward([Row(0, 0, text, len(text))])
    expected = log_softmax(logits.astype(np.float64), axis=1)
    for said, row, token in zip(told_whole(alone, text), expected, text[1:], strict=False):
        assert said.logprob == pytest.approx(row[token], abs=1e-9)
        assert said.rank == 1 + (row > row[token]).sum()
        assert said.top_tokens == np.argsort(-row, kind="stable")[:NUM_TOP].tolist()


async def test_a_plain_graph_tells_what_onnxruntime_says_of_the_whole_text(
    tmp_path: Path,
) -> None:
    """A decoder-with-past graph, run once over the text without any of our code."""
    folder = write_concat_toy(tmp_path / "plain")
    decoder = load_decoder(folder, max_slots=4, num_threads=1)
    plain = onnxruntime.InferenceSession(folder / "model.onnx")
    engine = Engine(decoder, measure_cost(decoder), Limits(16, 9.0), PrefixCache(1 << 20, 8))
    running = asyncio.create_task(engine.run())
    rng = np.random.default_rng(2)
    texts = [rng.integers(0, VOCAB_SIZE, length).tolist() for length in (2, 15, 16, 17, 60)]
    try:
        found = await asyncio.gather(*(serve(engine, request_of(text)) for text in texts[:4]))
        found += [await serve(engine, request_of(text)) for text in (*texts[4:], texts[3])]
    finally:
        running.cancel()
        await asyncio.wait([running])
        engine.close()
    empty = np.zeros((1, 2, 0, 8), np.float32)
    for text, told in zip([*texts, texts[3]], found, strict=True):
        past = {f"past_key_values.0.{part}": empty for part in ("key", "value")}
        (logits,) = plain.run(["logits"], {"input_ids": np.array([text]), **past})
        expected = log_softmax(logits[0].astype(np.float64), axis=1)
        assert len(told) == len(text) - 1
        for said, row, token in zip(told, expected, text[1:], strict=False):
            assert said.logprob == pytest.approx(row[token], abs=1e-4)
            assert said.top_tokens[0] == row.argmax()


@pytest.mark.parametrize("chunk", [2, 256])
async def test_nothing_is_generated_where_nothing_is_wanted(
    folder: Path, alone: Decoder, chunk: int
) -> None:
    prompts = [np.random.default_rng(n).integers(2, VOCAB_SIZE, n).tolist() for n in (1, 2, 40)]
    async with served(folder, prefill_tokens=chunk) as client:
        for prompt in prompts:
            options = {"num_prompt_logprobs": NUM_TOP}
            _, answer = await client.submit(prompt, 0, GREEDY, **options)
            tokens, finished = await client.ending(answer)
            assert (tokens, finished.num_tokens, finished.reason) == ([], 0, "length")
            assert finished.report.per_round == []
            assert answer.prompt_logprobs == told_whole(alone, prompt)
            _, answer = await client.submit(prompt, 5, GREEDY, num_logprobs=1, **options)
            tokens, _ = await client.ending(answer)
            assert tokens == decode_plainly(alone, prompt, 5, GREEDY)
            assert answer.prompt_logprobs == told_whole(alone, prompt)
            # What is told of the answer is what is told of it as part of a prompt.
            again = told_whole(alone, [*prompt, *tokens])[-5:]
            assert [said.logprob for said in answer.logprobs] == [said.logprob for said in again]


@asynccontextmanager
async def served(folder: Path, **settings: object) -> AsyncIterator[Client]:
    """A client of one verifier."""
    config = BusConfig(key_prefix="told")
    bus = MemoryBus(config)
    verifier = VerifierService(
        VerifierConfig(model=folder, num_threads=1, self_test=False, **settings), bus, config
    )
    async with running(verifier), Client(bus, verifier.name).connected() as client:
        yield client
    await bus.close()


async def test_who_takes_over_tells_the_same(
    folder: Path, alone: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first verifier stops in the midst of the prompt: the client checks what is repeated."""
    prompt = np.random.default_rng(5).integers(2, VOCAB_SIZE, MAX_CONTEXT - 10).tolist()
    config = BusConfig(key_prefix="told")
    bus = MemoryBus(config)
    first, second = (
        VerifierService(
            VerifierConfig(
                model=folder, num_threads=1, self_test=False, prefill_tokens=size, prefix_cache_mb=1
            ),
            bus,
            config,
        )
        for size in (4, 31)
    )
    begun = asyncio.Event()
    take = Answer._take_prompt

    def note(answer: Answer, message: PromptLogprobs) -> None:
        take(answer, message)
        begun.set()

    monkeypatch.setattr(Answer, "_take_prompt", note)
    async with Client(bus, first.name).connected() as client:
        async with running(first):
            _, answer = await client.submit(prompt, 5, GREEDY, num_prompt_logprobs=NUM_TOP)
            async with asyncio.timeout(20):
                await begun.wait()
        assert 0 < len(answer.prompt_logprobs) < len(prompt) - 1
        async with running(second):
            tokens, _ = await client.ending(answer)
    assert answer.prompt_logprobs == told_whole(alone, prompt)
    assert tokens == decode_plainly(alone, prompt, 5, GREEDY)
    await bus.close()


async def test_messages_are_small_and_leave_none_out() -> None:
    """As many as a prompt may have, with all that may be told, while the bus is slow."""
    bus, told = Slow(BusConfig()), []
    one = Logprobs(-1.5, [2**40] * 20, [-123.456] * 20, 2**40)
    async with relay(bus, request_of([1] * 131_072), "v") as gateway:
        for _ in range(131_071 // 1000 + 1):
            part = [replace(one, rank=len(told) + n) for n in range(1000)]
            told += part
            gateway.pass_on(Emitted(prompt=part))
        gateway.pass_on(Emitted([7]))
        bus.go_on.set()
    *parts, last = bus.sent
    assert isinstance(last, Tokens)
    offset = 1
    for message in parts:
        assert isinstance(message, PromptLogprobs)
        assert message.offset == offset
        assert len(message.logprobs) <= MAX_TOLD
        assert len(encode(message)) < MAX_MESSAGE_BYTES // 8
        offset += len(message.logprobs)
    assert [said for message in parts for said in message.logprobs] == told


class Slow(MemoryBus):
    """Sends nothing until it is told to go on."""

    def __init__(self, config: BusConfig) -> None:
        super().__init__(config)
        self.go_on = asyncio.Event()
        self.sent: list[object] = []

    async def send(self, inboxes: Sequence[str], message: object) -> None:
        await self.go_on.wait()
        self.sent.append(message)


def jobs(*kinds: str) -> list[Job]:
    """Of prompts told and untold, and of who decodes."""
    found = []
    for kind in kinds:
        session = Session(request_of([5] * 400, told=kind == "told"), 0)
        session.num_cached = 399 if kind == "decoding" else 0
        done: asyncio.Future[Verified] = asyncio.get_running_loop().create_future()
        found.append(Job(session, [] if kind == "decoding" else None, (), done, 0.0))
    return found


@pytest.mark.parametrize(
    ("kinds", "lengths"),
    [
        # A millisecond a token, and four more for one that is told; at most 50 beside others.
        (("decoding", "decoding", "told"), [1, 1, 10]),
        (("decoding", "decoding", "told", "untold"), [1, 1, 10, 0]),
        (("decoding", "decoding", "untold", "told"), [1, 1, 50, 0]),
        # Alone, what 256 untold ones would take.
        (("told",), [51]),
        (("untold", "told"), [256, 0]),
    ],
)
async def test_what_is_told_holds_nobody_up_for_longer(
    kinds: tuple[str, ...], lengths: list[int]
) -> None:
    cost = PassCost({2: 0.002, 1000: 1.0}, telling_s=0.004)
    waiting = jobs(*kinds)
    shares = compose(waiting, cost, Limits(256, 0.0505), PrefixCache(0))
    found = {id(share.job): len(share.tokens) for share in shares}
    assert [found.get(id(job), 0) for job in waiting] == lengths


async def test_logits_take_bounded_memory_and_one_token_always_goes_on() -> None:
    free = PassCost({2: 1e-3, 1000: 1.0})
    (share,) = compose(jobs("told"), free, Limits(256, 1.0, told_tokens=9), PrefixCache(0))
    assert len(share.tokens) == share.row().num_logits == 9
    dear = PassCost({2: 1e-3, 1000: 1.0}, telling_s=1000.0)
    for kinds in (("told",), ("decoding", "told")):
        assert len(compose(jobs(*kinds), dear, Limits(256, 1e-9), PrefixCache(0))[-1].tokens) == 1


async def test_the_engine_bounds_the_logits_of_a_pass(folder: Path) -> None:
    decoder = load_decoder(folder, max_slots=1, num_threads=1)
    cost = measure_cost(decoder)
    assert cost.telling_s < 1.0
    engine = Engine(decoder, cost, Limits(256, 1.0), PrefixCache(0))
    assert engine._limits.told_tokens * VOCAB_SIZE * 4 <= LOGITS_BYTES
    engine.close()


def write_concat_toy(folder: Path) -> Path:
    """One layer with two heads of 8, as a plain export has it: the cache comes in and goes out."""
    folder.mkdir()
    rng = np.random.default_rng(7)
    weights = {
        "embedding": rng.standard_normal((VOCAB_SIZE, 16)),
        **{name: rng.standard_normal((16, 16)) / 4 for name in ("q", "k", "v")},
        "head": rng.standard_normal((16, VOCAB_SIZE)),
    }
    constants = [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()]
    for name, ints in (("split", [1, -1, 2, 8]), ("flat", [1, -1, 16]), ("sequence", [1])):
        constants.append(numpy_helper.from_array(np.array(ints, np.int64), name))
    for name, number in (("zero", 0), ("one", 1)):
        constants.append(numpy_helper.from_array(np.array(number, np.int64), name))
    constants.append(numpy_helper.from_array(np.array(-1e9, np.float32), "masked"))
    nodes = [helper.make_node("Gather", ["embedding", "input_ids"], ["x"])]
    for name in ("q", "k", "v"):
        nodes += [
            helper.make_node("MatMul", ["x", name], [f"{name}1"]),
            helper.make_node("Reshape", [f"{name}1", "split"], [f"{name}2"]),
            helper.make_node("Transpose", [f"{name}2"], [f"{name}3"], perm=[0, 2, 1, 3]),
        ]
    past = [f"past_key_values.0.{part}" for part in ("key", "value")]
    present = [f"present.0.{part}" for part in ("key", "value")]
    nodes += [
        helper.make_node("Concat", [past[0], "k3"], [present[0]], axis=2),
        helper.make_node("Concat", [past[1], "v3"], [present[1]], axis=2),
        helper.make_node("Transpose", [present[0]], ["keys"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q3", "keys"], ["scores"]),
        # A token at `past + n` sees the keys up to there.
        helper.make_node("Shape", ["input_ids"], ["num1"], start=1, end=2),
        helper.make_node("Shape", [past[0]], ["past1"], start=2, end=3),
        helper.make_node("Squeeze", ["num1"], ["num"]),
        helper.make_node("Squeeze", ["past1"], ["before"]),
        helper.make_node("Add", ["num", "before"], ["end"]),
        helper.make_node("Range", ["before", "end", "one"], ["places"]),
        helper.make_node("Unsqueeze", ["places", "sequence"], ["queries"]),
        helper.make_node("Range", ["zero", "end", "one"], ["all"]),
        helper.make_node("Greater", ["all", "queries"], ["later"]),
        helper.make_node("Where", ["later", "masked", "scores"], ["visible"]),
        helper.make_node("Softmax", ["visible"], ["attention"], axis=-1),
        helper.make_node("MatMul", ["attention", present[1]], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["rows"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["rows", "flat"], ["line"]),
        helper.make_node("Add", ["line", "x"], ["sum"]),
        helper.make_node("MatMul", ["sum", "head"], ["logits"]),
    ]
    info, kind = helper.make_tensor_value_info, TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "plain",
        [
            info("input_ids", TensorProto.INT64, [1, "num"]),
            *(info(name, kind, [1, 2, "past", 8]) for name in past),
        ],
        [
            info("logits", kind, [1, "num", VOCAB_SIZE]),
            *(info(name, kind, [1, 2, "all", 8]) for name in present),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    Manifest(
        FORMAT, "plain", "Plain", "fp32", "concat", 1, 2, 2, 8, VOCAB_SIZE, 128, [1],
        {"model.onnx": checksum(folder / "model.onnx")},
    ).save(folder)  # fmt: skip
    return folder
