"""The backup of docs/operations.md, of a Redis server here: copied while it runs, and restored."""

from __future__ import annotations

import asyncio
import re
import shutil
import uuid
from pathlib import Path

from redis.asyncio import Redis

from shared.bus import connect
from shared.config import BusConfig
from shared.generation import Sampling
from shared.messages import GenerateRequest
from shared.topics import generate_requests
from tests.docs.blocks import ROOT
from tests.redis_server import RedisServer

TOPIC = generate_requests("toy")
REQUEST = GenerateRequest("kept", "gone", [1], 5, Sampling(), [], 1e12)


async def test_a_copied_folder_holds_what_was_published(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    before, after = re.findall(r"redis-cli config set (\S+) (\d+)'", page)
    # What an interval of a second might lose is not what is asked here.
    server = RedisServer(tmp_path, appendfsync="always")
    server.start()
    client = Redis.from_url(server.url)
    copy = tmp_path.with_name(f"{tmp_path.name}-backup")
    try:
        config = BusConfig(url=server.url, key_prefix=uuid.uuid4().hex, retry_s=5)
        bus = connect(config)
        await bus.publish(TOPIC, REQUEST)
        await bus.close()
        await client.config_set(*before)
        shutil.copytree(tmp_path, copy)
        await client.config_set(*after)
        assert dict([after]) == await client.config_get(after[0])
    finally:
        await client.aclose()
        server.kill()
    restored = RedisServer(copy)
    restored.start()
    try:
        bus = connect(config.model_copy(update={"url": restored.url}))
        async with asyncio.timeout(10), bus.subscribe(TOPIC) as subscription:
            delivery = await subscription.next()
            assert delivery.message == REQUEST
            await delivery.ack()
        await bus.close()
    finally:
        restored.kill()
