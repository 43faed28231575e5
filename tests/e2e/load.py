"""A steady load of mixed requests whose right answers are known, and what became of each."""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

RATE = float(os.environ.get("E2E_RATE", "27"))
"""Requests per second; by default about three quarters of what two cores take."""
PATIENCE_S = 90.0
RETRY_S = 0.25
"""A client's pause before it tries again, as Retry-After would ask of it."""

PROMPTS = (
    "def read_lines(path):\n",
    "class Stack:\n    def push(self, item):\n",
    "import os\nimport sys\n\ndef main():\n",
    "for line in file:\n    if not line.strip():\n",
    '"""Parse an address, and return it as a tuple.',
    "async def fetch(session, url):\n",
)
QUESTIONS = ("What does textwrap.dedent do?", "What does functools.reduce do?")
CONTEXTS = (
    {"package": ["asyncio"], "imports": ["socket", "ssl"]},
    {"package": ["json"], "imports": ["re"]},
    {"package": ["email"], "imports": ["datetime", "os"]},
)


@dataclass(frozen=True, slots=True)
class Call:
    """One kind of request, always with the same answer."""

    path: str
    body: Mapping[str, object]

    @property
    def is_stream(self) -> bool:
        return bool(self.body.get("stream"))


def _calls() -> list[Call]:
    greedy = [
        Call("/v1/completions", {"prompt": p, "max_tokens": 16, "temperature": 0}) for p in PROMPTS
    ]
    seeded = [
        Call(
            "/v1/completions",
            {"prompt": p, "max_tokens": 16, "temperature": 0.8, "top_p": 0.95, "seed": n},
        )
        for n, p in enumerate(PROMPTS)
    ]
    chats = [
        Call(
            "/v1/chat/completions",
            {
                "messages": [{"role": "user", "content": q}],
                "max_tokens": 24,
                "temperature": 0,
                "stream": True,
            },
        )
        for q in QUESTIONS
    ]
    rankings = [Call("/v1/recommendations", {"context": c, "k": 5}) for c in CONTEXTS]
    return [*greedy, *seeded, *chats, *4 * rankings]


CALLS = _calls()


@dataclass(slots=True)
class Outcome:
    """What became of one request, sent again as long as no gateway had accepted it, or the one
    that had was gone."""

    call: int
    issued: float
    ended: float = 0.0
    answer: str | None = None
    num_cut: int = 0
    num_refused: int = 0
    failure: str | None = None


@dataclass(slots=True)
class Load:
    """Requests while it runs, in turn to all gateways that can be reached: at a steady rate, or of
    `clients` each of which sends its next one when it has its answer."""

    gateways: Callable[[], Sequence[str]]
    rate: float = RATE
    clients: int | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    num_in_flight: int = 0
    _urls: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """The load, while the body runs; then all answers are waited for."""
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S, sock_connect=2)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            asyncio.TaskGroup() as requests,
        ):
            await self.look_for_gateways()
            issue = self._issue if self.clients is None else self._keep_busy
            issuing = asyncio.create_task(issue(session, requests))
            try:
                yield self
            finally:
                issuing.cancel()
                await asyncio.wait([issuing])

    async def answers(self) -> list[str]:
        """Each call once, one after the other: what an undisturbed system says."""
        async with aiohttp.ClientSession() as session:
            await self.look_for_gateways()
            found = []
            for number in range(len(CALLS)):
                outcome = Outcome(number, time.monotonic())
                await self._settle(session, outcome)
                if outcome.answer is None:
                    raise RuntimeError(f"{CALLS[number]}: {outcome.failure}")
                found.append(outcome.answer)
            return found

    async def _issue(self, session: aiohttp.ClientSession, requests: asyncio.TaskGroup) -> None:
        numbers = random.Random(0)
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        while True:
            outcome = Outcome(numbers.randrange(len(CALLS)), time.monotonic())
            self.outcomes.append(outcome)
            requests.create_task(self._settle(session, outcome))
            next_at += 1 / self.rate
            await asyncio.sleep(max(0.0, next_at - loop.time()))  # the rate is what is wanted

    async def _keep_busy(self, session: aiohttp.ClientSession, requests: asyncio.TaskGroup) -> None:
        numbers = random.Random(0)
        room = asyncio.Semaphore(self.clients or 0)
        while True:
            await room.acquire()
            outcome = Outcome(numbers.randrange(len(CALLS)), time.monotonic())
            self.outcomes.append(outcome)
            task = requests.create_task(self._settle(session, outcome))
            task.add_done_callback(lambda _: room.release())

    async def _settle(self, session: aiohttp.ClientSession, outcome: Outcome) -> None:
        self.num_in_flight += 1
        try:
            async with asyncio.timeout(PATIENCE_S):
                while outcome.answer is None and outcome.failure is None:
                    await self._try(session, outcome)
        except TimeoutError:
            outcome.failure = f"no answer within {PATIENCE_S:g} s"
        finally:
            outcome.ended = time.monotonic()
            self.num_in_flight -= 1

    async def _try(self, session: aiohttp.ClientSession, outcome: Outcome) -> None:
        call = CALLS[outcome.call]
        url = self._urls[random.randrange(len(self._urls))] if self._urls else None
        try:
            if url is None:
                raise aiohttp.ClientConnectionError("no gateway runs")
            async with session.post(url + call.path, json=call.body) as response:
                text = await response.text()
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
            outcome.num_cut += 1
            await self.look_for_gateways()
            await asyncio.sleep(RETRY_S)
            return
        if response.status in (429, 503):
            outcome.num_refused += 1
            await asyncio.sleep(RETRY_S)
        elif response.status != 200:
            outcome.failure = f"{response.status}: {text}"
        else:
            self._read(call, text, outcome)

    @staticmethod
    def _read(call: Call, text: str, outcome: Outcome) -> None:
        if not call.is_stream:
            parsed = json.loads(text)
            kept = parsed.get("choices", parsed.get("data"))
            outcome.answer = json.dumps(kept, sort_keys=True)
            return
        pieces = []
        for line in text.splitlines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                outcome.failure = f"in the stream: {event['error']}"
                return
            pieces += [c["delta"].get("content") or "" for c in event["choices"]]
        if text.rstrip().endswith("data: [DONE]"):
            outcome.answer = "".join(pieces)
        else:
            outcome.num_cut += 1

    async def look_for_gateways(self) -> None:
        """Requests go to those that run now."""
        self._urls = list(await asyncio.to_thread(self.gateways))


def throughput(outcomes: Sequence[Outcome], start: float, end: float) -> float:
    """Answers per second between two times."""
    answered = sum(start <= o.ended < end for o in outcomes if o.answer is not None)
    return answered / (end - start)


def recovery_s(
    outcomes: Sequence[Outcome], healed: float, rate: float, window_s: float = 3.0
) -> float:
    """Seconds from the end of a fault until throughput is back at 90 % for good: the end of the
    last window below it, 0 if there is none."""
    last = max((o.issued for o in outcomes), default=healed)
    slow_until = healed
    start = healed
    while start + window_s <= last:
        if throughput(outcomes, start, start + window_s) < 0.9 * rate:
            slow_until = start + window_s
        start += 0.25
    return slow_until - healed


def worst_latency_s(outcomes: Sequence[Outcome]) -> float:
    return max((o.ended - o.issued for o in outcomes), default=0.0)


def median_latency_s(outcomes: Sequence[Outcome]) -> float:
    return statistics.median(o.ended - o.issued for o in outcomes)
