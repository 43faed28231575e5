"""The recommender: scores items by name or by tensors, or picks the best of its catalogue."""

from __future__ import annotations

import asyncio
import json
import logging
from math import prod

from services.recommender import metrics
from services.recommender.arrays import read_arrays, write_tensor
from services.recommender.batcher import Batcher
from services.recommender.config import RecommenderConfig
from services.recommender.dense import NotFiniteError
from services.recommender.description import describe
from services.recommender.engine import Query
from services.recommender.folder import load_model
from services.recommender.model import Model
from services.recommender.ranking import top
from shared.bus.base import Bus
from shared.codec import MAX_MESSAGE_BYTES
from shared.config import BusConfig
from shared.errors import InvalidRequestError, QuorumError
from shared.messages import Failed, RecommendRequest, Scores
from shared.runner import Part
from shared.service import Service, background
from shared.tensor_messages import DescribeRequest, Description, Outputs, ScoreRequest
from shared.topics import recommend_requests, score_requests

logger = logging.getLogger(__name__)

MAX_ANSWER_BYTES = MAX_MESSAGE_BYTES - (1 << 16)
"""Of numbers; names and the rest of the message need some room, too."""


class RecommenderService(Service):
    """Serves one ranking model, named after its folder."""

    def __init__(self, config: RecommenderConfig, bus: Bus, bus_config: BusConfig) -> None:
        super().__init__("recommender", config.model.name, bus, bus_config)
        self._config = config
        self._model: Model
        self._batcher: Batcher

    async def load(self) -> None:
        """Loads and verifies the model."""
        config = self._config
        self._model = await asyncio.to_thread(
            load_model, config.model, max_rows=config.max_rows, num_threads=config.num_threads
        )
        self._batcher = Batcher(self._model)
        metrics.CATALOGUE_ITEMS.labels(self.name).set(self._model.num_items)

    async def serve(self) -> None:
        """Works until drained."""
        model, most = self._model, self._config.max_requests
        try:
            async with background(self._batcher.run(), self.read_inbox(self._receive)):
                await self.announce(
                    {
                        "version": model.version,
                        "versions": model.version,
                        "catalogue_size": str(model.num_items),
                        "context": ",".join(model.layout.context_keys),
                    }
                )
                async with asyncio.TaskGroup() as work:
                    names, tensors = recommend_requests(self.name), score_requests(self.name)
                    work.create_task(self.consume(names, self.recommend, most))
                    work.create_task(self.consume(tensors, self.score, most))
        finally:
            self._batcher.close()

    async def recommend(self, request: RecommendRequest) -> Scores:
        """The best `k` of the candidates, or of the catalogue if there are none."""
        if request.k < 1:
            raise InvalidRequestError(f"k is {request.k}; it must be at least 1", "k")
        ranking = self._model.read(request.context, request.candidates)
        (scores, *_) = await self._batcher.score(ranking.query)
        scores = scores.reshape(len(scores))
        best = top(scores, request.k)
        num_unknown = ranking.num_unknown
        metrics.UNKNOWN_VALUES.inc(num_unknown)
        logger.info("best %d of %d, %d unknown values", len(best), len(scores), num_unknown)
        return Scores(
            request.request_id,
            [self._model.names.items.name(item) for item in ranking.items[best].tolist()],
            scores[best].tolist(),
            num_unknown,
            self._model.version,
        )

    async def score(self, request: ScoreRequest) -> Outputs | Failed:
        """What the dense graph says of each item."""
        model = self._model
        if request.version not in (None, model.version):
            message = f"version {request.version} is not here; this is version {model.version}"
            return Failed(request.request_id, "not_found", message, "version")
        query = self._read(request)
        try:
            outputs = await self._batcher.score(query)
        except NotFiniteError as error:
            if not query.floats:
                raise
            message = "these numbers are too large: a score of theirs is not finite"
            raise InvalidRequestError(message, "inputs") from error
        logger.info("%d items of tensors", query.num_items)
        names = model.engine.outputs
        tensors = {n: write_tensor(array) for n, array in zip(names, outputs, strict=True)}
        return Outputs(request.request_id, tensors, model.version)

    def _read(self, request: ScoreRequest) -> Query:
        model = self._model
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

    async def _receive(self, message: object) -> None:
        """Tells whoever asks what is served."""
        if not isinstance(message, DescribeRequest):
            logger.warning("unexpected %s in the inbox", type(message).__name__)
            return
        model = self._model
        if message.version != model.version:
            logger.warning("asked for version %s, which is not here", message.version)
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
