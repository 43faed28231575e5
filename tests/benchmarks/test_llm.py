"""The table of benchmarks.llm says what the samples say."""

from __future__ import annotations

import pytest

from benchmarks.llm_report import Sample, figures, table


def sample(system: str, kind: str, tokens_per_s: float, same: int | None = None) -> Sample:
    return Sample("110m", system, kind, 0.0, 1, 4, tokens_per_s, 2.0, 0.1, 0.05, same)


def test_ratios_are_those_of_medians_of_each_kind() -> None:
    samples = [sample("quorum:plain", kind, speed, 4) for kind in ("code", "edits")
               for speed in (40.0, 50.0, 500.0)]  # fmt: skip
    samples += [sample("quorum:auto", "code", speed, 4) for speed in (100.0, 150.0, 151.0)]
    samples += [sample("quorum:auto", "edits", speed, 3) for speed in (1.0, 250.0, 251.0)]
    plain, auto = table(samples).splitlines()[2:]
    assert "| quorum:plain | 50 (40 to 500) | 1.00 |" in plain
    assert "| 4.00 | code 3.00, edits 5.00 |" in auto
    assert "| 2.00 | 0.10 | 0.05 | 21/24 |" in auto


def test_a_system_whose_texts_cannot_be_compared_says_so() -> None:
    (line,) = table([sample("llama_cpp:plain", "code", 9.0)]).splitlines()[2:]
    assert line.endswith("|  |  | 2.00 | 0.10 | 0.05 | 0/0 |")


def test_figures_are_named_as_their_goals_and_left_out_where_nothing_was_measured() -> None:
    samples = [sample("quorum:plain", kind, 50.0, 4) for kind in ("code", "edits")]
    samples += [sample("quorum:auto", "code", 100.0, 4), sample("quorum:auto", "edits", 40.0, 4)]
    samples += [sample("llama_cpp:draft", kind, 60.0, same=3) for kind in ("code", "edits")]
    samples += [sample("llama_cpp:plain", kind, 35.0, same=4) for kind in ("code", "edits")]
    assert figures(samples) == pytest.approx(
        {
            "speedup_c1": (2.0 + 0.8) / 2,
            "worst_speedup_c1_to_c64": 0.8,
            "over_best_peer_c1": 70 / 35,
            "overhead_share_c1": 0.15,
        }
    )
