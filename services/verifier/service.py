"""The verifier: owns each generation from the queue to its terminal message.

`generate` is the decode loop, one straight coroutine per request. Knows token ids only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import OrderedDict
from functools import partial
from pathlib import Path

from services.verifier import metrics
from services.verifier.batch import Limits, Verified
from services.verifier.checks import check
from services.verifier.config import VerifierConfig
from services.verifier.drafting import AUTO, WAYS
from services.verifier.engine import Engine, measure_cost
from services.verifier.grammar import Grammars, Matcher, within
from services.verifier.prefix_cache import PrefixCache
from services.verifier.relay import Emitted, relay
from services.verifier.session import Session
from services.verifier.speculation import Speculation
from services.verifier.traces import tell_generation, tell_round
from shared import served
from shared.bus.base import Bus
from shared.config import BusConfig
from shared.generation import Times
from shared.hosting import Host, Key, Wanted
from shared.lm.decoder import PASS_TOKENS, Decoder, load_decoder
from shared.lm.self_test import check_rows
from shared.lm.vocabulary import vocabulary_digest
from shared.machine import num_usable_cores
from shared.messages import Cancel, Cancelled, Draft, Failed, Finished, GenerateRequest
from shared.runner import Part
from shared.served import POLL_S
from shared.service import Service, background
from shared.topics import batch_generate_requests, generate_requests

logger = logging.getLogger(__name__)

_MAX_REMEMBERED_CANCELS = 10_000


class VerifierService(Service):
    """Serves one target model."""

    def __init__(self, config: VerifierConfig, bus: Bus, bus_config: BusConfig) -> None:
        super().__init__("verifier", config.model.name, bus, bus_config)
        self._config = config
        self._sessions: dict[str, Session] = {}
        self._cancelled: OrderedDict[str, None] = OrderedDict()
        self._decoder: Decoder
        self._engine: Engine
        self._speculation: Speculation
        self._grammars: Grammars

    async def load(self) -> None:
        """Loads the target model and tests it on this machine."""
        config = self._config
        num_threads = config.num_threads or num_usable_cores()
        self._decoder = await asyncio.to_thread(
            load_decoder,
            config.model,
            max_slots=config.max_batch,
            num_threads=num_threads,
            device=config.device,
            pass_tokens=PASS_TOKENS[config.device],
        )
        if config.self_test:
            await asyncio.to_thread(self._test_rows)
        manifest = self._decoder.manifest
        self._grammars = Grammars(config.model, manifest.vocab_size, manifest.eos_token_ids)
        self._speculation = Speculation(
            self.bus,
            self.registry,
            self.instance_id,
            self.name,
            await asyncio.to_thread(vocabulary_digest, config.model),
            self._decoder.manifest.vocab_size,
            config.speculation_length,
            config.max_speculation_length,
            config.draft_timeout_s,
        )
        leaves_cores = config.device != "cpu" or num_threads < (os.cpu_count() or 1)
        self._engine = Engine(
            self._decoder,
            await asyncio.to_thread(measure_cost, self._decoder),
            Limits(config.prefill_tokens, config.prefill_delay_s),
            PrefixCache(config.prefix_cache_mb << 20),
            AUTO if config.drafting == "auto" else [WAYS[config.drafting]],
            lambda: leaves_cores or self._speculation.has_distant_drafters(),
        )

    async def serve(self) -> None:
        """Works until drained."""
        manifest = self._decoder.manifest
        self._show()
        try:
            async with (
                self.inbox(self._receive),
                background(self._engine.run(), self._end_orphans()),
            ):
                await self.announce(
                    {
                        "max_context": str(manifest.max_context),
                        "vocab_size": str(manifest.vocab_size),
                    }
                )
                await self.consume(
                    generate_requests(self.name),
                    self.generate,
                    self._config.max_batch,
                    low=batch_generate_requests(self.name),
                )
        finally:
            self._engine.close()
            metrics.forget(self.name, self._config.max_batch)

    async def retire(self) -> None:
        """Once gateways have seen that the target is served no more, answers what waits for it."""
        await asyncio.sleep(2 * POLL_S)
        topics = generate_requests(self.name), batch_generate_requests(self.name)
        while any([await self.bus.lag(topic) for topic in topics]):  # noqa: ASYNC110 - of all
            await asyncio.sleep(POLL_S / 10)
        self.drain()

    async def generate(self, request: GenerateRequest) -> Finished | Cancelled | Failed:
        """One request, from prompt to terminal message; each round sends its tokens on."""
        check(request, self._decoder.manifest, self._config.max_speculation_length)
        session = Session(request, self._speculation.first_length, await self._matcher(request))
        self._sessions[session.id] = session
        try:
            async with relay(self.bus, request, self.instance_id) as gateway:
                gateway.pass_on(Emitted())
                with self._engine.seat(session):
                    while session.reason is None:
                        if request.request_id in self._cancelled:
                            return Cancelled(request.request_id, session.report())
                        if request.deadline < self.bus.now():
                            return _expired(session)
                        if session.num_uncached > 1:
                            with self.tracer.span("prefill"):
                                told = await self._engine.prefill(session)
                            gateway.pass_on(Emitted(prompt=told))
                        elif session.num_remaining_tokens == 0:
                            session.reason = "length"
                        else:
                            with self.tracer.span("round"):
                                gateway.pass_on(await self._round(session))
        finally:
            del self._sessions[session.id]
            await self._speculation.release(session)
        if session.matcher is not None and session.matcher.failure is not None:
            text = f"the text cannot go on within its grammar: {session.matcher.failure}"
            return Failed(request.request_id, "grammar_failed", text)
        tell_generation(self.name, session)
        _log_end(session, time.perf_counter() - session.started)
        return Finished(
            request.request_id, session.num_output_tokens, session.reason, session.report()
        )

    async def _round(self, session: Session) -> Emitted:
        """A draft, and the target's pass over it: the tokens that come of it."""
        began = time.perf_counter()
        length = self._speculation.length(session)
        draft = await self._draft(session, length)
        drafted = time.perf_counter()
        verified = await self._engine.verify(session, draft.tokens, draft.survival)
        tokens = session.emit(verified.tokens)
        times = _times(draft, drafted - began, verified, time.perf_counter() - began)
        rounds = []
        if session.request.is_traced:
            rounds.append(
                session.trace(
                    length if draft.votes else 0,
                    verified.draft,
                    draft.votes,
                    tokens,
                    verified.took,
                    times,
                    began,
                )
            )
        session.settle(verified.draft, draft.votes, tokens, verified.took, times)
        self._engine.observe_lookup(session, self._speculation.num_looked_up(session))
        tell_round(session, len(tokens), verified.took.num_running, times)
        return Emitted(tokens, verified.logprobs[: len(tokens)], rounds)

    async def _draft(self, session: Session, length: int) -> Draft:
        """What the target is to verify: the drafters' winner, within the request's grammar; or
        what the grammar forces, which nobody has to draft."""
        matcher, speculation = session.matcher, self._speculation
        if matcher is None:
            return await speculation.draft(session, self._engine.way, self._engine.price)
        draft = speculation.no_draft(session)
        if length == 0 or not matcher.forced():
            draft = await speculation.draft(session, self._engine.way, self._engine.price)
        return within(matcher, draft, length)

    async def _matcher(self, request: GenerateRequest) -> Matcher | None:
        if request.grammar is None:
            return None
        return await asyncio.to_thread(self._grammars.read, request.grammar)

    async def _receive(self, message: object) -> None:
        match message:
            case Draft():
                self._speculation.deliver(message)
            case Cancel():
                # Remembered, since the request may still be on its way to this verifier.
                self._cancelled[message.request_id] = None
                while len(self._cancelled) > _MAX_REMEMBERED_CANCELS:
                    self._cancelled.popitem(last=False)
            case _:
                logger.warning("unexpected %s in the inbox", type(message).__name__)

    async def _end_orphans(self) -> None:
        """Ends requests whose gateway has been gone for `orphan_s`: nobody can hear the answer."""
        last_seen: dict[str, float] = {}
        while True:
            now = asyncio.get_running_loop().time()
            gateways = {session.request.reply_to for session in self._sessions.values()}
            for gateway in gateways:
                if gateway not in last_seen or self.registry.find(gateway) is not None:
                    last_seen[gateway] = now
            last_seen = {gateway: last_seen[gateway] for gateway in gateways}
            for session in self._sessions.values():
                if now - last_seen[session.request.reply_to] > self._config.orphan_s:
                    self._cancelled[session.request.request_id] = None
            await asyncio.sleep(self.bus_config.lease_s / 3)

    def _show(self) -> None:
        """Metrics of what is in work, which are read when they are asked for."""
        sessions, num_slots = self._sessions, self._config.max_batch
        num_places = num_slots * self._decoder.manifest.max_context
        metrics.REQUESTS_CAPACITY.inc(num_slots)
        metrics.REQUESTS_RUNNING.labels(self.name).set_function(lambda: len(sessions))
        metrics.KV_CACHE_USAGE.labels(self.name).set_function(
            lambda: sum(session.num_cached for session in sessions.values()) / num_places
        )

    def _test_rows(self) -> None:
        result = check_rows(self._decoder)
        metrics.SELF_TEST_UNEQUAL.labels(self.name).set(result.num_unequal)
        if result.num_unequal:
            logger.warning(
                "rows are not bit-for-bit equal on this machine (%d of %d): texts may differ "
                "between batch compositions",
                result.num_unequal,
                result.num_compared,
            )


def _expired(session: Session) -> Failed:
    text = f"the deadline passed after {session.num_output_tokens} tokens"
    return Failed(session.request.request_id, "deadline_exceeded", text)


def _times(draft: Draft, asking_s: float, verified: Verified, round_s: float) -> Times:
    """Where a round's time went; `asking_s` of it were spent on having a draft."""
    took = verified.took
    hops_s = max(0.0, asking_s - draft.draft_s - draft.vote_s)
    parts = (asking_s - hops_s - draft.vote_s, draft.vote_s, hops_s, verified.waiting_s,
             took.duration_s, took.sampling_s)  # fmt: skip
    return Times(*parts, rest_s=max(0.0, round_s - sum(parts)))


def _log_end(session: Session, duration_s: float) -> None:
    num_drafted = sum(drafted for drafted, _ in session.per_round)
    num_accepted = sum(accepted for _, accepted in session.per_round)
    logger.info(
        "%s: %d tokens in %d rounds, %.3f s, accepted %d of %d draft tokens, %d timeouts",
        session.reason,
        session.num_output_tokens,
        session.round,
        duration_s,
        num_accepted,
        num_drafted,
        session.num_timeouts,
    )


def build(config: VerifierConfig, bus: Bus, bus_config: BusConfig) -> list[Service]:
    """One verifier; of a folder of models, one for each target that is served."""

    def wanted() -> Wanted:
        return {
            Key(target.name, target.stamp): partial(of, target.folder)
            for target in served.read(config.model)
        }

    def of(folder: Path) -> VerifierService:
        return VerifierService(config.model_copy(update={"model": folder}), bus, bus_config)

    if not served.is_list(config.model):
        return [of(config.model)]
    return [Host("verifier", config.model.name, bus, bus_config, wanted)]


PART = Part("verifier", VerifierConfig, build)
