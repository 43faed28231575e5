"""The entry of a process: settings, logging, bus, signals, monitoring, exit code.

    python -m services.voter [--print-config | --check]

Knows no service; it is handed parts. SIGTERM and SIGINT drain the services in the order given.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from shared import log
from shared.bus import Bus, connect
from shared.check import check
from shared.config import BusConfig, ProcessConfig, Settings, load
from shared.errors import ConfigError, QuorumError
from shared.monitor import Monitor, watch_loop
from shared.service import Service, background
from shared.tracing import recorder

logger = logging.getLogger(__name__)
C = TypeVar("C", bound=Settings)
T = TypeVar("T")
LOCAL_REDIS = "redis://127.0.0.1:6379/0"


class AnyPart(Protocol):
    """A part whatever its settings' class."""

    @property
    def name(self) -> str: ...
    def settings(self) -> Settings: ...
    def load(self, bus: Bus, bus_config: BusConfig) -> list[Service]: ...


@dataclass(frozen=True, slots=True)
class Part(Generic[C]):
    """One kind of service: its settings, and how to build its instances on a bus."""

    name: str
    config: type[C]
    build: Callable[[C, Bus, BusConfig], list[Service]]

    def settings(self) -> C:
        """Read from the environment."""
        return load(self.config)

    def load(self, bus: Bus, bus_config: BusConfig) -> list[Service]:
        """The part's services, set up from the environment."""
        return self.build(self.settings(), bus, bus_config)


def main(
    parts: Sequence[AnyPart],
    on_ready: Callable[[], None] = lambda: None,
    argv: Sequence[str] | None = None,
    bus_url: str = LOCAL_REDIS,
) -> int:
    """Runs the parts in one process until a signal. Returns the exit code. `bus_url` holds where
    BUS_URL is not set: one service alone has nobody to talk to within its process."""
    parser = argparse.ArgumentParser(description=f"Quorum: {', '.join(p.name for p in parts)}")
    parser.add_argument("--print-config", action="store_true", help="show settings and exit")
    parser.add_argument(
        "--check", action="store_true", help="ask the running process if it is ready"
    )
    arguments = parser.parse_args(argv)
    try:
        process = load(ProcessConfig)
        bus_config = load(BusConfig, {"BUS_URL": bus_url, **os.environ})
        if arguments.print_config:
            settings = (process, bus_config, *(part.settings() for part in parts))
            for shown in settings:
                for name, value in shown.effective().items():
                    print(f"{name}={value}")
            return 0
        if arguments.check:
            if not process.monitor_port:
                raise ConfigError(
                    "--check needs QUORUM_MONITOR_PORT, as the running process has it"
                )
            return check(process.monitor_host, process.monitor_port)
        log.set_up(process.log_level, process.log_format)
        return run(_serve(parts, process, bus_config, on_ready))
    except QuorumError as error:
        print(f"quorum: {error}", file=sys.stderr)
        return 2


def run(work: Coroutine[None, None, T]) -> T:
    """As asyncio.run does, on the event loop that services run on."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed: with the gateway, whose time is mostly the loop's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def _serve(
    parts: Sequence[AnyPart],
    process: ProcessConfig,
    bus_config: BusConfig,
    on_ready: Callable[[], None],
) -> int:
    bus = connect(bus_config)
    traces = recorder()
    services = [service for part in parts for service in part.load(bus, bus_config)]
    for service in services:
        service.trace_with(traces)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    try:
        async with Monitor(process, services), background(watch_loop()):
            return await supervise(services, stopped, process.drain_timeout_s, on_ready)
    finally:
        await bus.close()
        await traces.close()


async def supervise(
    services: Sequence[Service],
    stopped: asyncio.Event,
    drain_timeout_s: float,
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Runs the services until `stopped`, then drains one after the other. A service that ends by
    itself ends all: in one process, half a system is worse than none."""
    tasks = {service: asyncio.create_task(service.run()) for service in services}
    waiter = asyncio.create_task(stopped.wait())
    all_ready = asyncio.create_task(_when_ready(services, on_ready))
    try:
        await asyncio.wait([waiter, *tasks.values()], return_when=asyncio.FIRST_COMPLETED)
        if not stopped.is_set():
            return _report_early_end(tasks)
        logger.info("draining")
        deadline = time.monotonic() + drain_timeout_s
        for service, task in tasks.items():
            service.drain()
            await asyncio.wait([task], timeout=max(0.0, deadline - time.monotonic()))
        return 0
    finally:
        all_ready.cancel()
        waiter.cancel()
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(all_ready, *tasks.values(), return_exceptions=True)


async def _when_ready(services: Sequence[Service], on_ready: Callable[[], None]) -> None:
    """Calls back once all are ready and each of them sees the others."""
    for service in services:
        await service.ready.wait()
    for service in services:
        for member in service.members():
            await member.registry.refresh()
    on_ready()


def _report_early_end(tasks: dict[Service, asyncio.Task[None]]) -> int:
    for service, task in tasks.items():
        if not task.done():
            continue
        error = task.exception()
        if isinstance(error, QuorumError):
            print(f"quorum: {service.role} {service.name}: {error}", file=sys.stderr)
        elif error is not None:
            logger.critical("%s ended", service.instance_id, exc_info=error)
        else:
            logger.critical("%s ended without being asked to", service.instance_id)
    return 1
