"""One forward pass, on the engine's thread: caches put in order, the target's tokens drawn from its
logits, and what is told of them and of prompts read off them, which are then forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from services.verifier import metrics
from services.verifier.acceptance import accept
from services.verifier.batch import Share, Verified
from services.verifier.logprobs import logprobs
from services.verifier.prefix_cache import PrefixCache
from services.verifier.session import Took
from shared.generation import Logprobs
from shared.lm.decoder import Decoder, FloatArray, Row


@dataclass(frozen=True, slots=True)
class Passed:
    """What a pass gave: the target's tokens for each share, what is told of them or of the
    prompt's, how much of each share's tokens stays in the cache, blocks for the prefix cache, and
    what it cost."""

    emitted: list[list[int]]
    logprobs: list[list[Logprobs]]
    num_kept: list[int]
    blocks: list[tuple[bytes, FloatArray]]
    took: Took

    def verified(self, n: int, share: Share) -> Verified:
        """What the n-th share's job is told."""
        waiting_s = self.took.started - share.job.submitted
        return Verified(share.draft, self.emitted[n], self.logprobs[n], self.took, waiting_s)


def forward(
    decoder: Decoder,
    prefixes: PrefixCache,
    moves: Sequence[tuple[int, int, int]],
    num_seated: int,
    num_held: int,
    rows: Sequence[Row],
    shares: Sequence[Share],
) -> Passed:
    """The pass over the shares, each with its row; `moves` are slots whose caches change places
    before it: from, to, length. Slots from `num_held` on hold nothing that is wanted."""
    for source, target, length in moves:
        decoder.move(source, target, length)
    decoder.free(num_held)
    for share, row in zip(shares, rows, strict=True):
        for number, block in enumerate(share.restored):
            decoder.write(row.slot, share.restored_at + number * prefixes.block_tokens, block)
    started = time.perf_counter()
    logits = decoder.forward(rows)
    ended = time.perf_counter()
    emitted = _draw(shares, logits)
    told = [
        _tell(share, found, tokens)
        for share, found, tokens in zip(shares, logits, emitted, strict=True)
    ]
    sampling_s = time.perf_counter() - ended
    kind = "decode" if any(emitted) else "prefill"
    metrics.FORWARD_PASS_SECONDS.labels(kind).observe(ended - started)
    metrics.FORWARD_PASS_ROWS.labels(kind).observe(len(rows))
    # The last emitted token is not in the cache: the pass ended before it.
    num_kept = [
        len(share.tokens) - (len(share.draft) + 1 - len(tokens) if tokens else 0)
        for share, tokens in zip(shares, emitted, strict=True)
    ]
    blocks = _read(decoder, prefixes, shares, rows, num_kept)
    took = Took(started, ended - started, sampling_s, num_seated)
    return Passed(emitted, told, num_kept, blocks, took)


def _draw(shares: Sequence[Share], logits: Sequence[FloatArray]) -> list[list[int]]:
    """The target's tokens for each share, none for a prompt."""
    wanted = [n for n, share in enumerate(shares) if share.job.draft is not None]
    accepted = accept([logits[n] for n in wanted], [shares[n].drafted() for n in wanted])
    emitted: list[list[int]] = [[] for _ in shares]
    for n, tokens in zip(wanted, accepted, strict=True):
        emitted[n] = tokens
    return emitted


def _tell(share: Share, logits: FloatArray, emitted: Sequence[int]) -> list[Logprobs]:
    """Of the tokens that are emitted, or that follow in the prompt."""
    request = share.job.session.request
    if share.tells_prompt:
        return logprobs(logits, share.following(), request.num_prompt_logprobs or 0)
    if request.num_logprobs is not None:
        return logprobs(logits, emitted, request.num_logprobs)
    return []


def _read(
    decoder: Decoder,
    prefixes: PrefixCache,
    shares: Sequence[Share],
    rows: Sequence[Row],
    num_kept: Sequence[int],
) -> list[tuple[bytes, FloatArray]]:
    """The blocks that this pass completed and that nobody has computed before."""
    size = prefixes.block_tokens
    return [
        (key, decoder.read(row.slot, start, start + size))
        for share, row, count in zip(shares, rows, num_kept, strict=True)
        for key, start in prefixes.unknown(share.job.session, row.start, row.tokens[:count])
    ]
