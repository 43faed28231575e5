"""A discrete-event model of Quorum on many machines: who waits for whom, at measured costs.

Every process is an asyncio loop (one thing at a time) on the cores of its host; a target pass and a
draft are batches; Redis executes one command after the other. Tokens are drawn by number, not by
content. What the model leaves out: memory, failures, the time of the network beyond one constant.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import simpy

Event = simpy.events.Event
Steps = Generator[Event, Any, None]

QUANTUM_S = 0.001
"""Longest turn of a process on a core before the next one's."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of CPU of each piece of work; `acceptance` draws tokens emitted a round."""

    gateway_request: float
    gateway_round: float
    verifier_round: float
    voter_round: float
    pass_base: float
    pass_row: float
    drafters: Mapping[str, tuple[float, float]]
    """A batch's own cost, and that of each request in it, by draft model."""
    command: float
    """One command of Redis."""
    acceptance: tuple[int, ...]
    """Tokens emitted by each of a sample of rounds."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many of what, on how many cores; 0 `cores_each`: all on the cores of one host."""

    verifiers: int
    gateways: int = 1
    voters: int = 1
    drafters: int = 1
    """Replicas of each draft model."""
    host_cores: int = 2
    cores_each: int = 0
    network_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """Requests at a time for each verifier, new ones as soon as old ones end."""

    at_a_time: int
    num_tokens: int
    seconds: float
    warm_up_s: float


@dataclass(frozen=True, slots=True)
class Result:
    tokens_per_s: float
    median_latency_s: float
    p99_latency_s: float
    commands_per_s: float
    redis_busy: float
    """Share of the time in which Redis executes commands."""


class Cores:
    """The cores of a host, shared in turns."""

    def __init__(self, world: simpy.Environment, count: int) -> None:
        self._world = world
        self._cores = simpy.Resource(world, count)

    def work(self, seconds: float) -> Steps:
        while seconds > 0:
            with self._cores.request() as turn:
                yield turn
                spent = min(seconds, QUANTUM_S)
                yield self._world.timeout(spent)
                seconds -= spent


class Loop:
    """A process that does one thing at a time."""

    def __init__(self, world: simpy.Environment, cores: Cores) -> None:
        self._busy = simpy.Resource(world, 1)
        self._cores = cores
        self.worked_s = 0.0

    def work(self, seconds: float) -> Steps:
        with self._busy.request() as turn:
            yield turn
            yield from self._cores.work(seconds)
        self.worked_s += seconds


class Batcher:
    """Serves all that have come while it was busy in one batch, up to `largest`."""

    def __init__(
        self, world: simpy.Environment, cores: Cores, base: float, row: float, largest: int
    ) -> None:
        self._world = world
        self._cores = cores
        self._base, self._row, self._largest = base, row, largest
        self._waiting: list[Event] = []
        self._arrived = world.event()
        world.process(self._run())

    def serve(self) -> Event:
        """Ends with the batch that this one is in."""
        done = self._world.event()
        self._waiting.append(done)
        if not self._arrived.triggered:
            self._arrived.succeed()
        return done

    def _run(self) -> Steps:
        while True:
            if not self._waiting:
                self._arrived = self._world.event()
                yield self._arrived
            batch = self._waiting[: self._largest]
            del self._waiting[: self._largest]
            yield from self._cores.work(self._base + self._row * len(batch))
            for done in batch:
                done.succeed()


class World:
    """One Quorum on one Redis."""

    def __init__(self, costs: Costs, fleet: Fleet, load: Load, seed: int = 0) -> None:
        self._costs, self._fleet, self._load = costs, fleet, load
        self._random = random.Random(seed)
        self._latencies: list[float] = []
        self._num_tokens = self._num_commands = 0
        env = self._env = simpy.Environment()
        shared = Cores(env, fleet.host_cores)

        def cores() -> Cores:
            return Cores(env, fleet.cores_each) if fleet.cores_each else shared

        self._redis = Loop(env, cores())
        self._gateways = [Loop(env, cores()) for _ in range(fleet.gateways)]
        self._voters = [Loop(env, cores()) for _ in range(fleet.voters)]
        self._drafters = [
            [Batcher(env, cores(), base, row, 32) for _ in range(fleet.drafters)]
            for base, row in costs.drafters.values()
        ]
        self._verifiers: list[tuple[Loop, Batcher]] = []
        for _ in range(fleet.verifiers):
            own = cores()
            engine = Batcher(env, own, costs.pass_base, costs.pass_row, 16)
            self._verifiers.append((Loop(env, own), engine))

    def run(self) -> Result:
        """Simulates the warm-up and the time of the load."""
        load = self._load
        for verifier in range(self._fleet.verifiers):
            for _ in range(load.at_a_time):
                self._env.process(self._client(verifier))
        self._env.run(load.warm_up_s)
        self._latencies.clear()
        self._num_tokens = self._num_commands = 0
        worked_s = self._redis.worked_s
        self._env.run(load.warm_up_s + load.seconds)
        ordered = sorted(self._latencies) or [float("nan")]
        return Result(
            self._num_tokens / load.seconds,
            ordered[len(ordered) // 2],
            ordered[int(len(ordered) * 0.99)],
            self._num_commands / load.seconds,
            (self._redis.worked_s - worked_s) / load.seconds,
        )

    def _client(self, verifier: int) -> Steps:
        number = verifier
        while True:
            number += self._fleet.verifiers
            started = self._env.now
            yield from self._request(verifier, number)
            self._latencies.append(self._env.now - started)

    def _request(self, verifier: int, number: int) -> Steps:
        loop, engine = self._verifiers[verifier]
        gateway = self._gateways[number % len(self._gateways)]
        voter = self._voters[number % len(self._voters)]
        yield from gateway.work(self._costs.gateway_request)
        yield from self._hop(1)
        left = self._load.num_tokens
        while left > 0:
            yield from loop.work(self._costs.verifier_round)
            if self._drafters:
                yield from self._draft(number, voter)
            yield engine.serve()
            emitted = min(left, self._random.choice(self._costs.acceptance))
            left -= emitted
            self._num_tokens += emitted
            told = self._env.process(self._tell(gateway))
        yield told

    def _draft(self, number: int, voter: Loop) -> Steps:
        """One write into the inbox of the voter and of each drafter, then all proposals, then the
        vote."""
        yield from self._hop(1 + len(self._drafters), reads=0)
        chosen = [replicas[number % len(replicas)] for replicas in self._drafters]
        yield self._env.all_of([self._env.process(self._propose(drafter)) for drafter in chosen])
        yield from voter.work(self._costs.voter_round)
        yield from self._hop(1)

    def _propose(self, drafter: Batcher) -> Steps:
        yield from self._hop(0)
        yield drafter.serve()
        yield from self._hop(1)

    def _tell(self, gateway: Loop) -> Steps:
        yield from self._hop(1)
        yield from gateway.work(self._costs.gateway_round)

    def _hop(self, writes: int, reads: int = 1) -> Steps:
        """A message through Redis."""
        yield from self._redis.work((writes + reads) * self._costs.command)
        self._num_commands += writes + reads
        if self._fleet.network_s:
            yield self._env.timeout(self._fleet.network_s)
