"""The recommender: scores items by name or by tensors, or picks the best of its catalogue."""

from __future__ import annotations

import asyncio
import json
import logging
from math import prod

from services.recommender import metrics
from services.recommender.arrays import read_arrays, read_rows, write_tensor
from services.recommender.batcher import Batcher
from services.recommender.config import RecommenderConfig
from services.recommender.dense import NotFiniteError
from services.recommender.description import describe
from services.recommender.model import Model
from services.recommender.query import Query
from services.recommender.ranking import top
from services.recommender.served import ServedVersions
from services.recommender.versions import VersionError
from shared.bus.base import Bus
from shared.codec import MAX_MESSAGE_BYTES
from shared.config import BusConfig
from shared.errors import InvalidRequestError, QuorumError
from shared.messages import RecommendRequest, Scores
from shared.runner import Part
from shared.service import Service, background
from shared.tensor_messages import (
    DescribeRequest,
    Description,
    Outputs,
    RowsWritten,
    ScoreRequest,
    WriteRows,
    Written,
)
from shared.topics import recommend_requests, score_requests, write_requests

logger = logging.getLogger(__name__)

MAX_ANSWER_BYTES = MAX_MESSAGE_BYTES - (1 << 16)
"""Of numbers; names and the rest of the message need some room, too."""


class RecommenderService(Service):
    """Serves the versions of one ranking model, named after its folder."""

    def __init__(self, config: RecommenderConfig, bus: Bus, bus_config: BusConfig) -> None:
        super().__init__("recommender", config.model.name, bus, bus_config)
        self._config = config
        self._batcher = Batcher()
        self._served = ServedVersions(self.name, config, bus, self._batcher)

    async def load(self) -> None:
        """Loads and verifies what the labels mean."""
        await self._served.versions.refresh()

    async def serve(self) -> None:
        """Works until drained."""
        most = self._config.max_requests
        watching = self._watch()
        try:
            async with self.inbox(self._receive), background(self._batcher.run(), watching):
                await self.announce(self._attributes())
                async with asyncio.TaskGroup() as work:
                    names, tensors = recommend_requests(self.name), score_requests(self.name)
                    work.create_task(self.consume(names, self.recommend, most))
                    work.create_task(self.consume(tensors, self.score, most))
                    work.create_task(self.consume(write_requests(self.name), self.write, most))
        finally:
            await self._served.versions.close()
            self._batcher.close()

    async def recommend(self, request: RecommendRequest) -> Scores:
        """The best `k` of the candidates, or of the catalogue if there are none."""
        if request.k < 1:
            raise InvalidRequestError(f"k is {request.k}; it must be at least 1", "k")
        model = self._model(request.version)
        ranking = model.read(request.context, request.candidates)
        with self.tracer.span("score") as span:
            span.set({"quorum.num_items": ranking.query.num_items})
            (scores, *_) = await self._batcher.score(model, ranking.query)
        scores = scores.reshape(len(scores))
        best = top(scores, request.k)
        num_unknown = ranking.num_unknown
        metrics.UNKNOWN_VALUES.inc(num_unknown)
        logger.info("best %d of %d, %d unknown values", len(best), len(scores), num_unknown)
        return Scores(
            request.request_id,
            [model.names.items.name(item) for item in ranking.items[best].tolist()],
            scores[best].tolist(),
            num_unknown,
            model.version,
        )

    async def score(self, request: ScoreRequest) -> Outputs:
        """What the dense graph says of each item."""
        model = self._model(request.version)
        query = self._read(model, request)
        try:
            with self.tracer.span("score") as span:
                span.set({"quorum.num_items": query.num_items})
                outputs = await self._batcher.score(model, query)
        except NotFiniteError as error:
            if not query.floats:
                raise
            message = "these numbers are too large: a score of theirs is not finite"
            raise InvalidRequestError(message, "inputs") from error
        logger.info("%d items of tensors", query.num_items)
        names = model.engine.outputs
        tensors = {n: write_tensor(array) for n, array in zip(names, outputs, strict=True)}
        return Outputs(request.request_id, tensors, model.version)

    async def write(self, request: WriteRows) -> Written:
        """Records the rows for every replica of the version, this one among them."""
        _, served = self._served.versions.get(request.version)
        rows, values = read_rows(request.rows, request.values)
        served.rows.check(request.table, rows, values)
        written = RowsWritten(request.table, request.rows, request.values)
        await self.bus.record(served.journal, written)
        return Written(request.request_id, len(rows), served.model.version)

    def _model(self, wanted: str | None) -> Model:
        return self._served.versions.get(wanted)[1].model

    def _read(self, model: Model, request: ScoreRequest) -> Query:
        try:
            arrays = read_arrays(request.inputs, model.layout.inputs, request.is_typed)
            query = model.read_tensors(arrays, self._config.max_items)
        except InvalidRequestError as error:
            param = "inputs" if error.param is None else f"inputs.{error.param}"
            raise InvalidRequestError(str(error), param) from error
        num_values = sum(prod(shape) for shape in model.engine.outputs.values())
        if (num_bytes := 4 * num_values * query.num_items) > MAX_ANSWER_BYTES:
            raise InvalidRequestError(
                f"the answer for {query.num_items} items takes {num_bytes} bytes; at most "
                f"{MAX_ANSWER_BYTES} are sent at once",
                "inputs",
            )
        return query

    async def _watch(self) -> None:
        """Changes over whenever labels do, until cancelled."""
        while True:
            await asyncio.sleep(self._config.poll_s)
            self._served.check()
            if await self._served.versions.refresh():
                await self.announce(self._attributes())

    def _attributes(self) -> dict[str, str]:
        """What the registry shows: stable's version first, and what each label means."""
        version, served = self._served.versions.get(None)
        model, labels = served.model, self._served.versions.labels
        metrics.CATALOGUE_ITEMS.labels(self.name).set(model.num_items)
        return {
            "version": version,
            "versions": ",".join(f"{label}={own}" for label, own in sorted(labels.items())),
            "catalogue_size": str(model.num_items),
            "context": ",".join(model.layout.context_keys),
        }

    async def _receive(self, message: object) -> None:
        """Tells whoever asks what is served."""
        if not isinstance(message, DescribeRequest):
            logger.warning("unexpected %s in the inbox", type(message).__name__)
            return
        try:
            model = self._model(message.version)
        except VersionError as error:
            logger.warning("asked for %s", error)
            return
        described = describe(self.name, model.version, model.layout, model.engine.outputs)
        try:
            await self.bus.send(
                [message.reply_to], Description(message.request_id, json.dumps(described))
            )
        except QuorumError as error:
            logger.warning("the description is not sent: %s", error)


def build(config: RecommenderConfig, bus: Bus, bus_config: BusConfig) -> list[Service]:
    """One recommender."""
    return [RecommenderService(config, bus, bus_config)]


PART = Part("recommender", RecommenderConfig, build)
