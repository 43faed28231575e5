"""The recommender: scores candidates, or picks the best of its catalogue, by name."""

from __future__ import annotations

import asyncio
import logging

from services.recommender import metrics
from services.recommender.batcher import Batcher
from services.recommender.config import RecommenderConfig
from services.recommender.folder import load_model
from services.recommender.model import Model
from services.recommender.ranking import top
from shared.bus.base import Bus
from shared.config import BusConfig
from shared.errors import InvalidRequestError
from shared.messages import RecommendRequest, Scores
from shared.runner import Part
from shared.service import Service, background
from shared.topics import recommend_requests

logger = logging.getLogger(__name__)


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
        model = self._model
        topic = recommend_requests(self.name)
        try:
            async with background(self._batcher.run()):
                await self.announce(
                    {
                        "version": model.version,
                        "catalogue_size": str(model.num_items),
                        "context": ",".join(model.layout.context_keys),
                    }
                )
                await self.consume(topic, self.recommend, self._config.max_requests)
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


def build(config: RecommenderConfig, bus: Bus, bus_config: BusConfig) -> list[Service]:
    """One recommender."""
    return [RecommenderService(config, bus, bus_config)]


PART = Part("recommender", RecommenderConfig, build)
