"""What of a pass's time is laid to the way of drafting at work."""

from __future__ import annotations

import time
from asyncio import Future
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from services.verifier.batch import Job, Limits, Share, Verified
from services.verifier.drafting import Load
from services.verifier.engine import UNUSUAL, Engine
from services.verifier.forward import Passed
from services.verifier.pass_cost import PassCost, Shape
from services.verifier.prefix_cache import PrefixCache
from services.verifier.session import Session, Took
from shared.generation import Sampling
from shared.lm.decoder import load_decoder
from shared.messages import GenerateRequest
from tests.toy import write_toy


class Fixed(PassCost):
    """A second a token, whatever passes take."""

    def observe(self, shape: Shape, seconds: float) -> None:
        pass


COST = Fixed({2: 1.0, 1000: 999.0})
TWO = Load(2, 0)
Judge = Callable[[Sequence[tuple[Sequence[Share], float, float]]], list[tuple[Load, int, float]]]


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Judge]:
    """What is observed of passes: their shares, the seconds that they take, and when they end."""
    decoder = load_decoder(write_toy(tmp_path / "target"), max_slots=6, num_threads=1)
    engine = Engine(decoder, COST, Limits(16, 4.0), PrefixCache(0, 8))
    clock = SimpleNamespace(now=0.0)
    observed: list[tuple[Load, int, float]] = []
    monkeypatch.setattr(
        "services.verifier.engine.time", SimpleNamespace(monotonic=lambda: clock.now)
    )
    monkeypatch.setattr(engine._drafting, "observe", lambda *told: observed.append(told))

    def judged(
        passes: Sequence[tuple[Sequence[Share], float, float]],
    ) -> list[tuple[Load, int, float]]:
        sessions = {s.job.session.id: s.job.session for shares, *_ in passes for s in shares}
        with ExitStack() as seats:
            for one in sessions.values():
                seats.enter_context(engine.seat(one))
            for shares, took_s, ended in passes:
                clock.now = ended
                tokens = [[5] if share.job.draft is not None else [] for share in shares]
                took = Took(0.0, took_s, 0.0, len(sessions))
                engine._account(TWO, shares, Passed(tokens, [], [], [], took))
        return observed

    yield judged
    engine.close()


def share(draft: list[int] | None, count: int) -> Share:
    """Of a request of its own."""
    request = GenerateRequest("x", "x", [2] * 7, 30, Sampling(0.0), [], time.time() + 60)
    one = Session(request, 0)
    job = Job(one, draft, (), cast("Future[Verified]", SimpleNamespace()), 0.0)
    return Share(job, 0, one.tokens[:count])


def test_what_prompts_take_is_not_laid_to_drafting(judge: Judge) -> None:
    """Of eight seconds, six sevenths are for the six tokens of a prompt."""
    drafts, prompt = [share([], 1), share([], 1)], share(None, 6)
    observed = judge([([prompt], 1.0, 100.0), ([*drafts, prompt], 8.0, 110.0)])
    assert observed == [(TWO, 2, pytest.approx(10 - 8 * 6 / 7))]


def test_what_befell_a_pass_is_not_laid_to_drafting(judge: Judge) -> None:
    """Buffers that grow, or a machine that others use for a while: ten times as long as usual."""
    drafts, usual_s = [share([], 1), share([], 1)], COST.seconds(2)
    ends = (100.0, 101.0 + usual_s, 102.0 + 11 * usual_s)
    observed = judge(list(zip([drafts] * 3, (usual_s, usual_s, 10 * usual_s), ends, strict=True)))
    assert [seconds for _, _, seconds in observed] == [
        pytest.approx(1.0 + usual_s),
        pytest.approx(1.0 + UNUSUAL * usual_s),
    ]
