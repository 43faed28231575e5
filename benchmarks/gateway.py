"""python -m benchmarks.gateway [--seconds S] [--rounds N] [--only SET-UP] [--profile FILE]

What the gateway costs: recommendations of ten named candidates, as JSON, of a recommender that
scores nothing and answers at once. Three set-ups take turns: embedded, where the gateway's process
holds that recommender too; redis, where the gateway has a process of its own; and bare, a handler
of aiohttp's alone that answers the same, below which no gateway on it can be. A client of raw
sockets, in this process, keeps some requests under way for the most that goes through, then sends
at random times at half that rate. CPU time is the kernel's of the gateway's process. Writes
benchmarks/results/gateway.json; with --profile, cProfile's statistics of that process instead.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from aiohttp import web

from services.gateway.config import GatewayConfig
from services.gateway.service import GatewayService
from shared.bus import Bus, connect
from shared.config import BusConfig
from shared.messages import RecommendRequest, Scores
from shared.runner import run, supervise
from shared.service import Service
from shared.topics import recommend_requests

RESULTS = Path(__file__).parent / "results"
MODEL = "noop"
SET_UPS = ["bare", "embedded", "redis"]
CONNECTIONS = 16
WARM_UP_S = 2.0
BODY = json.dumps(
    {"context": {"package": ["json"]}, "candidates": [f"item-{n}" for n in range(10)], "k": 10}
).encode()
REQUEST = (
    b"POST /v1/recommendations HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
) + BODY


class NoRecommender(Service):
    """Gives each candidate the same score."""

    def __init__(self, bus: Bus, bus_config: BusConfig) -> None:
        super().__init__("recommender", MODEL, bus, bus_config)

    async def serve(self) -> None:
        await self.announce({"version": "1", "labels": "stable=1"})
        await self.consume(recommend_requests(MODEL), self.recommend, 256)

    async def recommend(self, request: RecommendRequest) -> Scores:
        items = request.candidates or []
        return Scores(request.request_id, items, [0.5] * len(items), 0, "1")


async def _bare(request: web.Request) -> web.Response:
    body = json.loads(await request.read())
    scored = [{"item": i, "score": 0.5, "rank": n} for n, i in enumerate(body["candidates"], 1)]
    return web.json_response({"object": "list", "model": MODEL, "data": scored})


async def _ready(_: web.Request) -> web.Response:
    return web.json_response({"ready": True})


async def serve_bare(port: int) -> None:
    """Runs aiohttp alone until cancelled."""
    app = web.Application()
    app.router.add_post("/v1/recommendations", _bare)
    app.router.add_get("/health/ready", _ready)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


async def serve(parts: list[str], port: int) -> None:
    """Runs the parts until SIGTERM."""
    if parts == ["bare"]:
        await serve_bare(port)
    bus_config = BusConfig(url=os.environ["BUS_URL"])
    bus = connect(bus_config)
    services: list[Service] = []
    if "recommender" in parts:
        services.append(NoRecommender(bus, bus_config))
    if "gateway" in parts:
        config = GatewayConfig(port=port, recommender=MODEL, max_in_flight=4096)
        services.append(GatewayService(config, bus, bus_config))
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await supervise(services, stopped, 5.0)
    await bus.close()


class Connection(asyncio.Protocol):
    """Sends the request whenever it is told to, one at a time."""

    def __init__(self, done: Callable[[Connection, float], None]) -> None:
        self._done = done
        self._buffer = b""
        self._transport: asyncio.Transport
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, began: float) -> None:
        self._began = began
        self._transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"the gateway answered {self._buffer[:500]!r}")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        if len(body) == length:
            self._buffer = b""
            self._done(self, time.perf_counter() - self._began)


@dataclass(frozen=True, slots=True)
class Measured:
    """One load. `offered_per_s` is None where the next request went out with each answer."""

    offered_per_s: float | None
    num_requests: int
    per_s: float
    gateway_cpu_us: float
    gateway_busy: float
    p50_ms: float
    p99_ms: float
    max_ms: float


async def measure(port: int, pid: int, seconds: float, rate: float | None) -> Measured:
    """The load for so long, after a while to warm up."""
    loop = asyncio.get_running_loop()
    idle: list[Connection] = []
    waiting: list[float] = []
    latencies: list[float] = []
    over = False

    def done(connection: Connection, latency_s: float) -> None:
        latencies.append(latency_s)
        if over:
            return
        if rate is None:
            connection.send(time.perf_counter())
        elif waiting:
            connection.send(waiting.pop(0))
        else:
            idle.append(connection)

    num_connections = CONNECTIONS if rate is None else 256
    for _ in range(num_connections):
        _, connection = await loop.create_connection(lambda: Connection(done), "127.0.0.1", port)
        idle.append(connection)
    arrivals = None if rate is None else asyncio.create_task(_arrive(rate, idle, waiting))
    if rate is None:
        for connection in idle:
            connection.send(time.perf_counter())
    await asyncio.sleep(WARM_UP_S)
    latencies.clear()
    cpu_s, began = cpu_seconds(pid), time.perf_counter()
    await asyncio.sleep(seconds)
    cpu_s, took_s = cpu_seconds(pid) - cpu_s, time.perf_counter() - began
    found = sorted(latencies)
    over = True
    if arrivals is not None:
        arrivals.cancel()
    for connection in idle:
        connection._transport.close()
    count = len(found)
    cuts = statistics.quantiles(found, n=100, method="inclusive")
    return Measured(
        rate, count, round(count / took_s, 1), round(cpu_s / count * 1e6, 1),
        round(cpu_s / took_s, 3), *(round(1e3 * s, 2) for s in (cuts[49], cuts[98], found[-1])),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Round:
    """A set-up, once."""

    load_before: float
    """What else wanted the machine's two cores in the minute before, in processes."""
    most: Measured
    half: Measured


async def without_gateway(seconds: float) -> float:
    """CPU time of a request on the embedded bus from and to a caller in the process, us: what of
    the embedded set-up is not the gateway."""
    bus_config = BusConfig()
    bus = connect(bus_config)
    recommender = asyncio.create_task(NoRecommender(bus, bus_config).run())
    items, count = [f"item-{n}" for n in range(10)], 0
    async with bus.receive("caller") as replies:
        for number in range(CONNECTIONS):
            await _ask(bus, items, number)
        cpu_s, until = time.process_time(), time.perf_counter() + seconds
        async for _ in replies:
            count += 1
            await _ask(bus, items, count)
            if time.perf_counter() > until:
                break
        cpu_s = time.process_time() - cpu_s
    recommender.cancel()
    await asyncio.wait([recommender])
    return round(cpu_s / count * 1e6, 1)


async def _ask(bus: Bus, items: list[str], number: int) -> None:
    context = {"package": ["json"]}
    request = RecommendRequest(f"{number:032}", "caller", context, items, 10, bus.now() + 60)
    await bus.publish(recommend_requests(MODEL), request)


def one_round(name: str, seconds: float, profile: Path | None) -> Round:
    load = round(os.getloadavg()[0], 2)
    with system(name, profile) as (port, pid):
        most = asyncio.run(measure(port, pid, seconds, None))
        half = asyncio.run(measure(port, pid, seconds, most.per_s / 2))
    return Round(load, most, half)


async def _arrive(rate: float, idle: list[Connection], waiting: list[float]) -> None:
    """At random times, whether answers have come or not: latency counts from then on."""
    rng, at = random.Random(0), time.perf_counter()
    while True:
        at += rng.expovariate(rate)
        if (wait_s := at - time.perf_counter()) > 0:
            await asyncio.sleep(wait_s)
        if idle:
            idle.pop().send(at)
        else:
            waiting.append(at)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def child(*command: str, **environment: str) -> Iterator[int]:
    """A process for the time of the body; its id."""
    process = subprocess.Popen(command, env={**os.environ, **environment})
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def system(name: str, profile: Path | None) -> Iterator[tuple[int, int]]:
    """The gateway's port and process."""
    port = free_port()
    serving = (sys.executable, "-m", "benchmarks.gateway", "--port", str(port), "--serve")
    more = () if profile is None else ("--profile", str(profile))
    with ExitStack() as stack:
        if name != "redis":
            parts = "bare" if name == "bare" else "gateway,recommender"
            pid = stack.enter_context(child(*serving, parts, *more, BUS_URL="memory://"))
        else:
            server = shutil.which("redis-server")
            if server is None:
                raise SystemExit("no redis-server on PATH")
            redis_port = free_port()
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            url = f"redis://127.0.0.1:{redis_port}/0"
            options = ("--port", str(redis_port), "--dir", folder, "--save", "")
            stack.enter_context(child(server, *options, "--logfile", "redis.log"))
            stack.enter_context(child(*serving, "recommender", BUS_URL=url))
            pid = stack.enter_context(child(*serving, "gateway", *more, BUS_URL=url))
        _wait_for(port)
        yield port, pid


def _wait_for(port: int) -> None:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as probe:
                probe.sendall(b"GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                if probe.recv(100).startswith(b"HTTP/1.1 200"):
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit("the gateway is not ready")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=SET_UPS, default=SET_UPS)
    parser.add_argument("--profile", type=Path, help="statistics of the gateway's process")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        work = serve(arguments.serve.split(","), arguments.port)
        if arguments.profile is None:
            run(work)
        else:
            with cProfile.Profile() as profiler:
                run(work)
            profiler.dump_stats(arguments.profile)
        return
    without_us = [asyncio.run(without_gateway(arguments.seconds)) for _ in range(arguments.rounds)]
    print(f"the embedded set-up without a gateway: {sorted(without_us)} us a request")
    found: dict[str, list[Round]] = {name: [] for name in arguments.only}
    for _ in range(arguments.rounds):
        for name in arguments.only:
            found[name].append(one_round(name, arguments.seconds, arguments.profile))
            print(f"{name}: {found[name][-1]}", flush=True)
    for name, rounds in found.items():
        costs = sorted(one.most.gateway_cpu_us for one in rounds)
        rates = sorted(one.most.per_s for one in rounds)
        print(f"{name}: {costs} us a request, {rates} requests/s")
    if arguments.profile is None and arguments.only == SET_UPS:
        results: dict[str, object] = {"without_gateway_us": without_us}
        results |= {name: [asdict(one) for one in rounds] for name, rounds in found.items()}
        (RESULTS / "gateway.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
