"""Passwords of the Redis server: from a file, changed while services run, and wrong ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from shared.bus import connect
from shared.config import BusConfig, load
from shared.errors import BusError, ConfigError
from shared.messages import Cancel
from tests.redis_server import RedisServer


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
