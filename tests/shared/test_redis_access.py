"""Passwords of the Redis server, from a file, changed while services run, and wrong; and TLS."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trustme
from redis.asyncio import Redis

from shared.bus import connect
from shared.config import BusConfig, load
from shared.errors import BusError, ConfigError
from shared.messages import Cancel
from tests.redis_server import RedisServer, find_server, free_port


@pytest.fixture
async def admin(own_redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(own_redis_server.url) as client:
        await client.config_set("requirepass", "first")
        await client.execute_command("AUTH", "first")
        yield client


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text("first\n")
    return file


@pytest.mark.usefixtures("admin")
async def test_the_password_comes_from_a_file(
    own_redis_server: RedisServer, password_file: Path
) -> None:
    bus = connect(BusConfig(url=own_redis_server.url, password_file=password_file))
    async with bus.receive("mine") as messages:
        await bus.send(["mine"], Cancel("1"))
        assert await asyncio.wait_for(anext(messages), 10) == Cancel("1")
    await bus.close()


async def test_a_changed_password_is_taken_up_by_the_next_connection(
    admin: Redis, own_redis_server: RedisServer, password_file: Path
) -> None:
    bus = connect(BusConfig(url=own_redis_server.url, password_file=password_file))
    async with bus.receive("mine") as messages:
        await bus.send(["mine"], Cancel("1"))
        assert await asyncio.wait_for(anext(messages), 10) == Cancel("1")
        await admin.config_set("requirepass", "second")
        await asyncio.to_thread(password_file.write_text, "second")
        await admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await bus.send(["mine"], Cancel("2"))
        assert await asyncio.wait_for(anext(messages), 10) == Cancel("2")
    await bus.close()


@pytest.mark.usefixtures("admin")
@pytest.mark.parametrize("password", ["wrong", None])
async def test_a_wrong_password_is_reported_and_not_shown(
    password: str | None, own_redis_server: RedisServer, password_file: Path
) -> None:
    await asyncio.to_thread(password_file.write_text, password or "")
    file = None if password is None else password_file
    bus = connect(BusConfig(url=own_redis_server.url, password_file=file, retry_s=0.1))
    with pytest.raises(BusError, match=r"(?i)password|authenticat") as refused:
        await bus.send(["mine"], Cancel("1"))
    assert "wrong" not in str(refused.value).replace("WRONGPASS", "")
    await bus.close()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"BUS_PASSWORD_FILE=.*nothing.*does not point to a file"):
        load(BusConfig, {"BUS_PASSWORD_FILE": str(tmp_path / "nothing")})


def test_two_passwords_are_one_too_many(password_file: Path) -> None:
    environment = {
        "BUS_URL": "redis://:hunter2@bus:6379/0",
        "BUS_PASSWORD_FILE": str(password_file),
    }
    with pytest.raises(ConfigError, match="BUS_URL holds a password as well") as refused:
        load(BusConfig, environment)
    assert "hunter2" not in str(refused.value)


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that speaks TLS on a second port, certified by an authority of the test."""
    # It ends at the folder that is not there, or before, at a setting that it does not know.
    tried = subprocess.run(
        [find_server(), "--port", "0", "--tls-port", "0", "--dir", "/nowhere"],
        capture_output=True, text=True, check=False, timeout=10,
    )  # fmt: skip
    if "tls-port" in tried.stdout + tried.stderr:
        pytest.skip("this redis-server was built without TLS")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    server = RedisServer(
        tmp_path,
        tls_port=str(free_port()),
        tls_cert_file=str(tmp_path / "cert.pem"),
        tls_key_file=str(tmp_path / "key.pem"),
        tls_ca_cert_file=str(tmp_path / "ca.pem"),
        tls_auth_clients="no",
    )
    server.start()
    yield server
    server.kill()


async def test_the_bus_speaks_tls_to_a_server_of_a_known_authority(
    tls_server: RedisServer, tmp_path: Path
) -> None:
    url = f"rediss://localhost:{tls_server.options['tls-port']}/0"
    bus = connect(BusConfig(url=url, ca_file=tmp_path / "ca.pem"))
    async with bus.receive("mine") as messages:
        await bus.send(["mine"], Cancel("1"))
        assert await asyncio.wait_for(anext(messages), 10) == Cancel("1")
    await bus.close()
    stranger = connect(BusConfig(url=url, retry_s=0.1))
    with pytest.raises(BusError, match=r"(?i)certificate verify failed"):
        await stranger.send(["mine"], Cancel("1"))
    await stranger.close()


def test_an_authority_without_tls_is_a_mistake(password_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"BUS_CA_FILE=.*not a rediss:// address"):
        load(BusConfig, {"BUS_URL": "redis://bus", "BUS_CA_FILE": str(password_file)})
