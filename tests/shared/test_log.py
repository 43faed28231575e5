"""Log lines: one a line, and each within a request carries its id."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator

import pytest

from shared import log
from shared.bus.memory import MemoryBus
from shared.config import BusConfig
from shared.messages import Failed, RecommendRequest
from shared.service import Service, Terminal
from shared.topics import recommend_requests

logger = logging.getLogger("some.module")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """The root logger belongs to the tests' runner again afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_json_lines_parse_and_hold_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("info", "json")
    logger.info('a "quoted" %s\nin two lines, ünd', "word")
    (line,) = lines(capsys)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "some.module",
        "request_id": "-",
        "message": 'a "quoted" word\nin two lines, ünd',
    }


def test_an_exception_stays_within_its_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("info", "json")
    try:
        raise ValueError("the cause")
    except ValueError:
        logger.exception("it failed")
    (line,) = lines(capsys)
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: the cause")


def test_lines_within_a_request_carry_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("info", "json")
    with log.request_scope("outer"):
        with log.request_scope("inner"):
            logger.info("1")
        logger.info("2")
    logger.info("3")
    assert [line["request_id"] for line in lines(capsys)] == ["inner", "outer", "-"]


def test_the_id_is_that_of_the_request_that_failed_too(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("info", "json")

    def fail() -> None:
        with log.request_scope("r"):
            raise ValueError("the cause")

    with pytest.raises(ValueError, match="the cause"):
        fail()
    logger.info("after")
    assert [line["request_id"] for line in lines(capsys)] == ["-"]


async def test_requests_side_by_side_keep_their_ids(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("info", "json")
    barrier = asyncio.Barrier(3)

    async def work(request_id: str) -> None:
        with log.request_scope(request_id):
            for _ in range(3):
                await barrier.wait()
                logger.info(request_id)

    await asyncio.gather(*(work(name) for name in "abc"))
    shown = lines(capsys)
    assert len(shown) == 9
    assert all(line["request_id"] == line["message"] for line in shown)


async def test_what_a_request_starts_carries_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("info", "json")

    async def later() -> None:
        logger.info("later")

    with log.request_scope("r"):
        task = asyncio.create_task(later())
    await task
    assert [line["request_id"] for line in lines(capsys)] == ["r"]


class Faulty(Service):
    """Fails every request by a fault of ours."""

    async def serve(self) -> None:
        await self.consume(recommend_requests("m"), self._fail, 2)

    async def _fail(self, request: RecommendRequest) -> Terminal:
        raise ZeroDivisionError(request.request_id)


async def test_a_failed_request_is_logged_with_its_cause_under_its_id(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.set_up("info", "json")
    config = BusConfig()
    bus = MemoryBus(config)
    service = asyncio.create_task(Faulty("recommender", "m", bus, config).run())
    async with bus.receive("client") as replies:
        for request_id in ("r-1", "r-2"):
            request = RecommendRequest(request_id, "client", {}, None, 1, time.time() + 60)
            await bus.publish(recommend_requests("m"), request)
        for _ in range(2):
            assert isinstance(await asyncio.wait_for(anext(replies), 5), Failed)
    service.cancel()
    await asyncio.wait([service])
    shown = {line["request_id"]: line["exception"] for line in lines(capsys)}
    assert shown.keys() == {"r-1", "r-2"}
    for request_id, exception in shown.items():
        assert exception.endswith(f"ZeroDivisionError: {request_id}")


def test_text_lines_show_level_logger_and_request(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("info", "text")
    with log.request_scope("r-1"):
        logger.warning("slow by %d", 3)
    assert " WARNING some.module [r-1] slow by 3\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("level", "shown"),
    [("debug", "dwe"), ("warning", "we"), ("error", "e")],
)
def test_only_the_level_asked_for_and_above_is_shown(
    level: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log.set_up(level, "json")
    logger.debug("d")
    logger.warning("w")
    logger.error("e")
    assert "".join(line["message"] for line in lines(capsys)) == shown


def test_setting_up_again_does_not_double_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("info", "text")
    log.set_up("info", "json")
    logger.info("once")
    assert len(lines(capsys)) == 1
