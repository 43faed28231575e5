"""DELETE /v1/requests/{id}: ends the generations of an x-request-id, whichever gateway has them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

from services.gateway import metrics
from services.gateway.doorkeeper import KEY
from services.gateway.errors import REQUEST_ID
from shared.bus.base import Bus
from shared.errors import QuorumError
from shared.gateway_messages import Abort, Aborted
from shared.registry import Registry

ANSWER_S = 1.0
"""Within which the other gateways answer; one that has just died never does."""
Ending = asyncio.Future[QuorumError]
"""Done when the generations of an HTTP request are to end before their time, with the error that
the client gets."""


class CancelledByRequestError(QuorumError):
    code = "cancelled"


class UnknownRequestError(QuorumError):
    code = "request_not_found"


@dataclass(frozen=True, slots=True)
class Open:
    """The generations of one HTTP request."""

    owner: str | None
    num_generations: int
    ending: Ending


@dataclass(slots=True)
class Question:
    """To the other gateways, and what they have said so far."""

    num_unheard: int
    num_cancelled: int = 0
    is_over: asyncio.Event = field(default_factory=asyncio.Event)


class Running:
    """What runs at this gateway, by x-request-id, and the way to what runs at others."""

    def __init__(self, bus: Bus, registry: Registry, inbox: str) -> None:
        self._bus = bus
        self._registry = registry
        self._inbox = inbox
        self._open: dict[str, list[Open]] = {}
        self._questions: dict[str, Question] = {}

    def add_to(self, app: web.Application) -> None:
        app.router.add_delete("/v1/requests/{id}", self.delete)

    @contextmanager
    def entered(self, request: web.Request, count: int) -> Iterator[Ending]:
        """Makes a request's generations known for the time of the body. Clients may give several
        requests the same id."""
        ending: Ending = asyncio.get_running_loop().create_future()
        opened = Open(owner_of(request), count, ending)
        self._open.setdefault(request[REQUEST_ID], []).append(opened)
        try:
            yield ending
        finally:
            own = self._open[request[REQUEST_ID]]
            own.remove(opened)
            if not own:
                del self._open[request[REQUEST_ID]]

    async def delete(self, request: web.Request) -> web.Response:
        """200 when something was ended; a key ends what came with the same key."""
        http_id, owner = request.match_info["id"], owner_of(request)
        count = self._end(http_id, owner) or await self._end_elsewhere(http_id, owner)
        if not count:
            raise UnknownRequestError(f"no request {http_id[:128]!r} of yours is running")
        return web.json_response({"id": http_id, "cancelled": count})

    async def receive(self, message: Abort | Aborted) -> None:
        """A message of another gateway."""
        if isinstance(message, Abort):
            count = self._end(message.http_id, message.owner)
            await self._bus.send([message.reply_to], Aborted(message.question_id, count))
            return
        question = self._questions.get(message.question_id)
        if question is not None:
            question.num_cancelled += message.num_cancelled
            question.num_unheard -= 1
            if question.num_unheard == 0:
                question.is_over.set()

    def _end(self, http_id: str, owner: str | None) -> int:
        """How many generations of this gateway that was."""
        count = 0
        for opened in self._open.get(http_id, ()):
            if opened.owner == owner and not opened.ending.done():
                opened.ending.set_result(CancelledByRequestError("the request was cancelled"))
                count += opened.num_generations
        metrics.CANCELLATIONS.labels("request").inc(count)
        return count

    async def _end_elsewhere(self, http_id: str, owner: str | None) -> int:
        await self._registry.refresh()
        live = self._registry.live("gateway")
        others = [gateway.inbox for gateway in live if gateway.inbox != self._inbox]
        if not others:
            return 0
        question_id = uuid.uuid4().hex
        question = self._questions[question_id] = Question(len(others))
        try:
            await self._bus.send(others, Abort(question_id, self._inbox, http_id, owner))
            async with asyncio.timeout(ANSWER_S):
                await question.is_over.wait()
        except TimeoutError:
            pass
        finally:
            del self._questions[question_id]
        return question.num_cancelled


def owner_of(request: web.Request) -> str | None:
    """The name of its key, where keys are asked for."""
    key = request.get(KEY)
    return None if key is None else key.name
