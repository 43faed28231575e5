"""What live recommenders say of themselves: asked once of each version of an instance."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.bus.base import Bus, Instance
from shared.errors import UnavailableError
from shared.registry import Registry
from shared.tensor_messages import DescribeRequest, Description

logger = logging.getLogger(__name__)
PATIENCE_S = 2.0
"""With an instance, before another one is asked."""


class DescribedTensor(BaseModel):
    """An input or output; -1 is any size."""

    model_config = ConfigDict(frozen=True, strict=True)

    name: str
    dtype: str
    shape: list[int]


class Described(BaseModel):
    """A model as its recommender describes it."""

    model_config = ConfigDict(frozen=True, strict=True)

    model: str
    version: str
    inputs: list[DescribedTensor]
    outputs: list[DescribedTensor]
    plan: dict[str, object]


class Descriptions:
    """Of all recommenders of one gateway, fed from its inbox."""

    def __init__(self, bus: Bus, registry: Registry, inbox: str) -> None:
        self._bus = bus
        self._registry = registry
        self._inbox = inbox
        self._known: dict[tuple[str, str], Described] = {}
        """By instance and version."""
        self._asked: dict[str, asyncio.Future[str]] = {}

    async def of(self, instances: Sequence[Instance], wanted: str | None) -> Described:
        """Of the version that is wanted, by the first of these that is known or answers. Raises
        UnavailableError."""
        keys = [(i, (i.instance_id, version_at(i, wanted) or "")) for i in instances]
        for _, key in keys:
            if key in self._known:
                return self._known[key]
        for instance, key in keys:
            described = await self._ask(instance, key[1])
            if described is not None:
                live = self._registry.live("recommender")
                alive = {(i.instance_id, version) for i in live for version in versions_of(i)}
                self._known = {k: v for k, v in self._known.items() if k in alive}
                self._known[key] = described
                return described
        raise UnavailableError("no recommender says what it serves; try again soon")

    def receive(self, message: Description) -> None:
        """Takes an answer; one that comes too late is dropped."""
        asked = self._asked.get(message.request_id)
        if asked is not None and not asked.done():
            asked.set_result(message.json)

    async def _ask(self, instance: Instance, version: str) -> Described | None:
        """None where it is silent, or says what cannot be read."""
        request_id = uuid.uuid4().hex
        asked = self._asked[request_id] = asyncio.get_running_loop().create_future()
        try:
            request = DescribeRequest(request_id, self._inbox, version)
            await self._bus.send([instance.inbox], request)
            async with asyncio.timeout(PATIENCE_S):
                return Described.model_validate_json(await asked)
        except TimeoutError:
            logger.warning("%s does not say what it serves", instance.instance_id)
        except ValidationError as error:
            logger.warning("%s describes itself in another way: %s", instance.instance_id, error)
        finally:
            del self._asked[request_id]
        return None


def versions_of(instance: Instance) -> list[str]:
    """The versions that a recommender's instance serves."""
    return [version for _, version in _named(instance)]


def version_at(instance: Instance, wanted: str | None) -> str | None:
    """The version that a name, its own or a label, means there, if any; None asks for the one that
    is served where none is named."""
    if wanted is None:
        return instance.attributes.get("version")
    named = _named(instance)
    return next((version for label, version in named if wanted in (label, version)), None)


def _named(instance: Instance) -> list[tuple[str, str]]:
    """Labels, which may be empty, and what each means: the attribute is "VERSION" or
    "LABEL=VERSION,..."."""
    parts = instance.attributes.get("versions", "").split(",")
    pairs = [part.rpartition("=") for part in parts if part]
    return [(label, version) for label, _, version in pairs]
