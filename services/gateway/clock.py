"""The time that a choice takes, and what is counted and logged of it at its end."""

from __future__ import annotations

import logging
import time

from services.gateway import metrics
from services.gateway.replies import Waiter
from shared.messages import GenerateRequest, GenerationReport

logger = logging.getLogger(__name__)


class Clock:
    """Measures one choice, and logs and counts its end."""

    def __init__(self, model: str, waiter: Waiter) -> None:
        self._model = model
        self._waiter = waiter
        self._started = time.perf_counter()
        self._first: float | None = None
        self._last = self._started

    def tick(self, num_tokens: int) -> None:
        """Tokens have come, or what is told of the prompt."""
        if not num_tokens:
            return
        now = time.perf_counter()
        if self._first is None:
            self._first = now
            metrics.TIME_TO_FIRST_TOKEN.labels(self._model).observe(now - self._started)
        else:
            gap = (now - self._last) / num_tokens
            for _ in range(num_tokens):
                metrics.INTER_TOKEN_LATENCY.labels(self._model).observe(gap)
        self._last = now

    def end(
        self,
        reason: str,
        request: GenerateRequest,
        num_tokens: int,
        report: GenerationReport | None,
    ) -> None:
        """The choice is finished."""
        model, num_prompt, now = self._model, len(request.prompt), time.perf_counter()
        self._time(now, num_tokens)
        metrics.SUCCESSES.labels(model, reason).inc()
        metrics.PROMPT_TOKENS.labels(model).inc(num_prompt)
        metrics.GENERATION_TOKENS.labels(model).inc(num_tokens)
        metrics.REQUEST_PROMPT_TOKENS.labels(model).observe(num_prompt)
        metrics.REQUEST_GENERATION_TOKENS.labels(model).observe(num_tokens)
        metrics.PARAMS_MAX_TOKENS.labels(model).observe(request.max_tokens)
        rounds = report.per_round if report is not None else []
        drafts = [(drafted, accepted) for drafted, accepted in rounds if drafted > 0]
        metrics.DRAFTS.labels(model).inc(len(drafts))
        metrics.DRAFT_TOKENS.labels(model).inc(sum(drafted for drafted, _ in drafts))
        metrics.ACCEPTED_TOKENS.labels(model).inc(sum(accepted for _, accepted in drafts))
        for _, accepted in drafts:
            for position in range(accepted):
                metrics.ACCEPTED_TOKENS_PER_POSITION.labels(model, str(position)).inc()
        logger.info(
            "%s: %d prompt and %d completion tokens, %d rounds, first token after %.3f s, "
            "%.3f s in all",
            reason,
            num_prompt,
            num_tokens,
            len(rounds),
            (self._first or now) - self._started,
            now - self._started,
        )

    def _time(self, now: float, num_tokens: int) -> None:
        """Where its time went."""
        model = self._model
        first = now if self._first is None else self._first
        begun = first if self._waiter.begun is None else self._waiter.begun
        metrics.END_TO_END.labels(model).observe(now - self._started)
        metrics.QUEUE_TIME.labels(model).observe(begun - self._started)
        metrics.PREFILL_TIME.labels(model).observe(first - begun)
        metrics.DECODE_TIME.labels(model).observe(now - first)
        metrics.INFERENCE_TIME.labels(model).observe(now - begun)
        if num_tokens > 1:
            per_token = (now - first) / (num_tokens - 1)
            metrics.TIME_PER_OUTPUT_TOKEN.labels(model).observe(per_token)
