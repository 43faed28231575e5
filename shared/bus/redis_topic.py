"""Consumers of topics on Redis Streams: one of a group reads one topic, or two by their rank."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.bus.base import Delivery, Subscription
from shared.bus.redis_client import BLOCK_MS, FIELD, RedisClient, read_streams
from shared.bus.redis_place import Found, RedisDelivery, RedisPlace
from shared.bus.turns import Turns
from shared.topics import Topic

M = TypeVar("M")


class RedisSubscription(Subscription[M], Generic[M]):
    """One consumer, with its own connection for blocking reads."""

    def __init__(
        self, client: RedisClient, topics: Sequence[Topic[M]], now: Callable[[], float]
    ) -> None:
        self._client = client
        self._consumer = uuid.uuid4().hex
        self._group = topics[0].group
        self._reader: Redis = client.reader()
        self._lease_ms = int(client.config.delivery_lease_s * 1000)
        self._places = [
            RedisPlace(client, topic, self._consumer, self._reader, now) for topic in topics
        ]
        self._turns = Turns()
        self._fetching: asyncio.Task[RedisDelivery[M]] | None = None

    async def next(self) -> Delivery[M]:
        # A fetch outlives its caller: what it brings is for the next call, or goes back.
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch())
        delivery = await asyncio.shield(self._fetching)
        self._fetching = None
        return delivery

    async def renew(self) -> None:
        """Keeps the leases of what is held until cancelled."""
        while True:
            await asyncio.sleep(self._lease_ms / 3000)
            for place in self._places:
                await place.renew()

    async def leave(self) -> None:
        """Hands back what was fetched for nobody; removes the consumer if it holds nothing."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])
            if not self._fetching.cancelled() and self._fetching.exception() is None:
                await self._fetching.result().hand_back()
        await self._reader.aclose()
        for place in self._places:
            await place.leave()

    async def _fetch(self) -> RedisDelivery[M]:
        while True:
            came = await self._client.call_forever(self._read)
            if came is None:
                continue
            place, found = came
            if (delivery := await place.open(found)) is not None:
                self._turns.took(is_low=place is not self._places[0])
                return delivery

    async def _read(self) -> tuple[RedisPlace[M], Found] | None:
        """By rank, an entry whose lease ran out, else a new one; else the first that comes."""
        places = self._places[::-1] if self._turns.is_lows else self._places
        try:
            for place in places:
                if (found := await place.expired()) is not None:
                    return place, found
                if len(places) > 1 and (came := await self._new([place], None)) is not None:
                    return came
            return await self._new(places, max(1, min(BLOCK_MS, self._lease_ms // 3)))
        except ResponseError as error:
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise
            for place in places:
                await place.create_group()
            return None

    async def _new(
        self, places: Sequence[RedisPlace[M]], block_ms: int | None
    ) -> tuple[RedisPlace[M], Found] | None:
        """An entry that nobody was handed yet. The server counts by topic: where both have got
        one since they were looked at, the later place's goes back."""
        keys: dict[str | bytes | memoryview, int | str | bytes | memoryview]
        keys = {place.key: ">" for place in places}
        answer = await self._reader.xreadgroup(
            self._group, self._consumer, keys, count=1, block=block_ms
        )
        by_key = {
            key: Found(entry, fields.get(FIELD, b""), 1)
            for key, (entry, fields) in read_streams(answer)
        }
        came = [(place, by_key[place.key]) for place in places if place.key in by_key]
        for place, found in came[1:]:
            await place.decline(found)
        return came[0] if came else None
