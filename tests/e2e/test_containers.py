"""What a container may do, and what it gives away."""

from __future__ import annotations

import json

import pytest

from services.__main__ import PARTS
from tests.e2e.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SERVICES = (*(p for p in PARTS if p != "drafter"), "drafter-small", "redis")
MAX_VOTER_BYTES = 250_000_000


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_nobody_and_can_write_nowhere(service: str, stack: Stack) -> None:
    assert stack.run(service, "id -u").strip() != "0"
    status = stack.run(service, "cat /proc/1/status")
    assert "CapEff:\t0000000000000000\n" in status
    assert "CapBnd:\t0000000000000000\n" in status
    assert "NoNewPrivs:\t1\n" in status
    for path in ("/x", "/usr/x", "/app/x", "/run/quorum/x"):
        assert stack.run(service, f"touch {path} 2>/dev/null && echo written || echo no") == "no\n"


@pytest.mark.parametrize("service", [s for s in SERVICES if s != "redis"])
def test_an_image_holds_one_service_and_nothing_to_build_with(service: str, stack: Stack) -> None:
    listed = stack.run(service, "ls /app/services").split()
    assert sorted(set(listed) - {"__init__.py", "__pycache__"}) == [service.partition("-")[0]]
    tools = "command -v gcc cc make g++ || echo none"
    assert stack.run(service, tools) == "none\n"
    assert "No module named pip" in stack.run(service, "python -m pip 2>&1 || true")


def test_the_password_is_in_its_file_alone(stack: Stack) -> None:
    password = stack.run("voter", "cat /run/quorum/redis-password")
    assert len(password) == 64
    for service in SERVICES:
        container = stack.containers(service)[0]
        assert password not in json.dumps(container.attrs)
        assert password not in json.dumps(container.image.attrs)
        assert password not in json.dumps(container.image.history())
        assert password not in container.logs().decode()
        shown = stack.run(service, "cat /proc/*/cmdline /proc/*/environ 2>/dev/null || true")
        assert password not in shown


def test_redis_answers_nobody_without_the_password(stack: Stack) -> None:
    assert "NOAUTH" in stack.run("redis", "redis-cli ping 2>&1 || true")
    assert stack.containers("redis")[0].ports.get("6379/tcp") is None
    # Nor does anything behind the gateway reach the outside.
    script = "import socket; socket.create_connection(('192.0.2.1', 80), 3)"
    said = stack.run("verifier", f'python -c "{script}" 2>&1 || true')
    assert "unreachable" in said or "timed out" in said


def test_the_voter_is_small(stack: Stack) -> None:
    image = stack.containers("voter")[0].image
    assert image.attrs["Size"] < MAX_VOTER_BYTES
