"""A drafter: one draft model, proposals for whatever requests ask for them at the moment.

All requests that wait are drafted in one batch; a request that asked again meanwhile is drafted
once, for its newest round.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import inf, isinf
from pathlib import Path

from services.drafter import metrics
from services.drafter.config import DrafterConfig
from services.drafter.model import NOTHING, DraftModel, Lookup, Steps, T, Want, finish
from services.drafter.neural import NeuralModel
from services.drafter.ngram import NgramModel
from services.drafter.suffix import SuffixModel
from shared import served
from shared.bus.base import Bus
from shared.config import BusConfig
from shared.errors import ConfigError
from shared.hosting import Host, Key, Wanted
from shared.lm.vocabulary import vocabulary_digest
from shared.machine import machine_id
from shared.messages import DraftRequest, Proposal, Release
from shared.runner import Part
from shared.served import Target
from shared.service import Service, background
from shared.tracing import Span, Value, current

logger = logging.getLogger(__name__)
Proposals = list[tuple[DraftRequest, Proposal]]

LOOKUP_TOKENS = 64
"""New context that a lookup takes in within the event loop: a tenth of a millisecond."""
QUICK_TOKENS = 16
QUICK_PASS_S = 0.001
"""Likewise for what is computed: new context, and what a pass over it takes of a core."""
_RECENT = 8
"""Passes that count for the latter."""


class DrafterService(Service):
    """Serves one draft model."""

    def __init__(
        self,
        name: str,
        load_model: Callable[[], DraftModel],
        bus: Bus,
        bus_config: BusConfig,
        vocabulary: Callable[[], str] = str,
        targets: Sequence[str] = (),
    ) -> None:
        """`load_model` runs when the service starts, and `vocabulary`, which gives the digest of
        the tokens that it drafts in, empty for any. It drafts for `targets`; none: for all."""
        super().__init__("drafter", name, bus, bus_config)
        self._load_model = load_model
        self._read_vocabulary = vocabulary
        self._targets = targets
        self._model: DraftModel
        self._inbound: list[DraftRequest | Release] = []
        self._traced: list[tuple[DraftRequest, Span]] = []
        """Of the requests that wait, those whose rounds are traced."""
        self._wanted = asyncio.Event()
        self._pass_s = inf
        """Of a core, for a pass over little new context."""

    async def load(self) -> None:
        self._model = await asyncio.to_thread(self._load_model)
        self._vocabulary = await asyncio.to_thread(self._read_vocabulary)

    async def serve(self) -> None:
        """Works until drained; proposals are soft, so there is nothing to finish."""
        async with self.inbox(self._receive), background(self._draft()):
            await self.announce(
                {
                    "kind": self._model.kind,
                    "vocabulary": self._vocabulary,
                    "targets": ",".join(self._targets),
                    "machine": machine_id(),
                }
            )
            await self.draining.wait()

    async def _receive(self, message: object) -> None:
        if isinstance(message, DraftRequest | Release):
            self._inbound.append(message)
            self._wanted.set()
            if isinstance(message, DraftRequest) and (span := current()).traceparent is not None:
                self._traced.append((message, span))
        else:
            logger.warning("unexpected %s in the inbox", type(message).__name__)

    async def _draft(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            batch, self._inbound = self._inbound, []
            traced, self._traced = self._traced, []
            started = time.perf_counter()
            try:
                proposals = await self._work(batch, started)
            except Exception:  # a batch that cannot be drafted costs its proposals, not the drafter
                logger.exception("no proposals for %d messages", len(batch))
                continue
            self._trace(traced, started)
            metrics.DRAFT_SECONDS.labels(self.name).observe(time.perf_counter() - started)
            await self.bus.send_all((request.voter, proposal) for request, proposal in proposals)
            if any(request.ahead for request, _ in proposals):
                try:
                    await asyncio.to_thread(self._draft_ahead)
                except Exception:  # costs nobody anything: the next round drafts as ever
                    logger.exception("nothing drafted ahead")

    async def _work(self, batch: Sequence[DraftRequest | Release], started: float) -> Proposals:
        """Within the event loop what takes less than a thread waits for the interpreter, which the
        loop and other drafters hold, and for a core, which the target's threads do."""
        num_tokens = sum(len(message.tokens) for message in batch)
        steps = self._propose(batch, started)
        is_quick = num_tokens <= LOOKUP_TOKENS
        if self._model.kind != "lookup":
            is_quick = num_tokens <= QUICK_TOKENS and self._pass_s <= QUICK_PASS_S
            if num_tokens <= QUICK_TOKENS:
                steps = self._timed(steps)
        return await (_giving_way(steps) if is_quick else asyncio.to_thread(finish, steps))

    def _timed(self, steps: Steps[T]) -> Steps[T]:
        """Learns what a pass takes of a core, however long it waits for one."""
        while True:
            began = time.thread_time()
            try:
                next(steps)
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                took_s = time.thread_time() - began
                known_s = took_s if isinf(self._pass_s) else self._pass_s
                self._pass_s = known_s + (took_s - known_s) / _RECENT
            yield

    def _trace(self, traced: Sequence[tuple[DraftRequest, Span]], started: float) -> None:
        """A batch that ends now, as a span in each round that it was for."""
        ended = time.perf_counter()
        for request, parent in traced:
            told: dict[str, Value] = {
                "quorum.drafter": self.name,
                "quorum.round": request.round,
            }
            self.tracer.record("propose", parent, started, ended, told)

    def _draft_ahead(self) -> None:
        """Until somebody asks."""
        num_tokens = self._model.draft_ahead(lambda: bool(self._inbound))
        metrics.AHEAD_TOKENS.labels(self.name).inc(num_tokens)

    def _propose(self, batch: Sequence[DraftRequest | Release], started: float) -> Steps[Proposals]:
        """Takes in all contexts, in order, then drafts for the newest round of each request."""
        newest: dict[str, tuple[DraftRequest, bool]] = {}
        for message in batch:
            if isinstance(message, Release):
                self._model.extend(message.request_id, message.start, message.tokens, 0)
                self._model.release(message.request_id)
                newest.pop(message.request_id, None)
            else:
                is_synced = self._model.extend(
                    message.request_id, message.start, message.tokens, message.num_prompt_tokens
                )
                newest[message.request_id] = (message, is_synced)
        synced = [request for request, is_synced in newest.values() if is_synced]
        proposed = yield from self._model.propose(
            [Want(r.request_id, r.speculation_length, r.sampling, r.ahead) for r in synced]
        )
        found = {r.request_id: p for r, p in zip(synced, proposed, strict=True)}
        metrics.PROPOSED_TOKENS.labels(self.name).inc(sum(len(p.tokens) for p in proposed))
        metrics.READY_TOKENS.labels(self.name).inc(sum(p.num_ready for p in proposed))
        metrics.UNSYNCED.labels(self.name).inc(len(newest) - len(synced))
        draft_s = time.perf_counter() - started

        def proposal(request: DraftRequest, is_synced: bool) -> Proposal:
            proposed = found.get(request.request_id, NOTHING)
            return Proposal(
                request.request_id,
                request.round,
                self.name,
                proposed.tokens,
                proposed.margins,
                proposed.num_ready,
                draft_s,
                is_synced,
            )

        return [(r, proposal(r, is_synced)) for r, is_synced in newest.values()]


async def _giving_way(steps: Steps[T]) -> T:
    """Takes all of them, and lets the event loop do other work in between; their result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await asyncio.sleep(0)


def build(config: DrafterConfig, bus: Bus, bus_config: BusConfig) -> list[Service]:
    """One service for each draft model named, and for each of a folder of models that is for a
    target that is served."""
    names = [name.strip() for name in config.models.split(",")]
    return [Builder(config, bus, bus_config).service(name) for name in names]


class Builder:
    """Makes the services of one process."""

    def __init__(self, config: DrafterConfig, bus: Bus, bus_config: BusConfig) -> None:
        self._config = config
        self._bus = bus
        self._bus_config = bus_config
        self._lookups: dict[str, Callable[[], DraftModel]] = {
            "ngram": lambda: Lookup(NgramModel(max_requests=config.max_requests)),
            "suffix": lambda: Lookup(
                SuffixModel(max_requests=config.max_requests, max_tokens=config.suffix_tokens)
            ),
        }

    def service(self, name: str) -> Service:
        """Of what DRAFTER_MODELS names. Raises ConfigError."""
        folder = Path(name)
        if name in self._lookups:
            return DrafterService(name, self._lookups[name], self._bus, self._bus_config)
        if served.is_list(folder):
            if self._config.translate_from is not None:
                raise ConfigError(
                    f"DRAFTER_TRANSLATE_FROM is for draft models that are named one by one; in "
                    f"{folder} it is {served.FILE_NAME} that says which are `translated`"
                )
            wanted = partial(self._wanted, folder)
            return Host("drafter", folder.name, self._bus, self._bus_config, wanted)
        if folder.is_dir():
            return self._neural(folder, self._config.translate_from)
        raise ConfigError(
            f"DRAFTER_MODELS names {name!r}, which is neither a folder nor one of "
            f"{', '.join(self._lookups)}"
        )

    def _wanted(self, folder: Path) -> Wanted:
        """A draft model is loaded once for all targets with its tokens, and once more for each
        that it is translated for."""
        uses: dict[tuple[str, Path | None], list[Target]] = {}
        for target in served.read(folder):
            for name in target.drafters:
                is_translated = name in target.translated
                uses.setdefault((name, target.folder if is_translated else None), []).append(target)
        wanted: dict[Key, Callable[[], Service]] = {}
        for (name, other), targets in uses.items():
            names = [target.name for target in targets]
            title = name if other is None else f"{name} for {other.name}"
            key = Key(title, (served.stamp(folder / name), *names))
            wanted[key] = partial(self._neural, folder / name, other, names)
        return wanted

    def _neural(
        self, folder: Path, translate_from: Path | None, targets: Sequence[str] = ()
    ) -> DrafterService:
        config = self._config

        def load() -> DraftModel:
            # Looking up needs no such thing, nor what its imports cost.
            from services.drafter.choice import load_passes

            passes = load_passes(
                folder,
                max_slots=config.max_requests,
                num_threads=config.num_threads,
                device=config.device,
                compiles=config.compiles,
            )
            model = NeuralModel(passes, config.prefill_tokens)
            if translate_from is None:
                return model
            return _translated(model, translate_from, folder, config.max_requests)

        vocabulary = partial(vocabulary_digest, translate_from or folder)
        return DrafterService(folder.name, load, self._bus, self._bus_config, vocabulary, targets)


def _translated(model: DraftModel, target: Path, own: Path, max_requests: int) -> DraftModel:
    """The model for the tokens of `target`; as it is where they are its own."""
    # Nobody else needs the tokenizers' package, nor what the imports cost.
    from services.drafter.translated import TranslatedModel
    from services.drafter.vocabulary import make_pair

    pair = make_pair(target, own)
    return model if pair is None else TranslatedModel(model, pair, max_requests)


PART = Part("drafter", DrafterConfig, build)
