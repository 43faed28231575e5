"""The table, figures and file of benchmarks.llm say what the samples say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.llm_report import Found, Sample, figures, read, spent, table, write


def sample(system: str, kind: str, tokens_per_s: float, same: int | None = None) -> Sample:
    shares = {"drafting": 0.1, "forward_pass": 0.85, "rest": 0.05}
    if not system.startswith("quorum:"):
        shares = {}
    return Sample("110m", system, kind, 0.0, 1, 4, tokens_per_s, 2.0, same, shares, 0.25)


def test_ratios_are_those_of_medians_of_each_kind() -> None:
    samples = [sample("quorum:plain", kind, speed, 4) for kind in ("code", "edits")
               for speed in (40.0, 50.0, 500.0)]  # fmt: skip
    samples += [sample("quorum:auto", "code", speed, 4) for speed in (100.0, 150.0, 151.0)]
    samples += [sample("quorum:auto", "edits", speed, 3) for speed in (1.0, 250.0, 251.0)]
    plain, auto = table(samples).splitlines()[2:]
    assert "| quorum:plain | 3 | 50 (40 to 500) | 1.00 |" in plain
    assert "| 4.00 | code 3.00, edits 5.00 |" in auto
    assert "| 2.00 | 0.15 | 21/24 |" in auto


def test_a_system_whose_texts_cannot_be_compared_says_so() -> None:
    (line,) = table([sample("llama_cpp:plain", "code", 9.0)]).splitlines()[2:]
    assert line.endswith("|  |  | 2.00 |  | 0/0 |")


@pytest.mark.parametrize(
    ("system", "plain"),
    [
        ("quorum:auto", "quorum:plain"),
        ("quorum:redis-auto", "quorum:redis-plain"),
        ("quorum:auto:int8", "quorum:plain:int8"),
        ("genai:draft:int4", "quorum:plain:int4"),
    ],
)
def test_a_system_is_compared_with_plain_decoding_of_its_kind(system: str, plain: str) -> None:
    ours, theirs = sample(plain, "code", 40.0), sample(system, "code", 60.0)
    assert " | 1.50 | code 1.50 |" in table([ours, theirs]).splitlines()[-1]


def test_time_is_told_by_what_it_went_into_where_it_is_known() -> None:
    samples = [sample("quorum:auto", "code", 9.0), sample("genai:plain", "code", 9.0)]
    head, _, line = spent(samples).splitlines()
    assert head.endswith("| system | drafting | forward_pass | rest | ready |")
    assert line == "| 110m | 0 | 1 | quorum:auto | 10.0 | 85.0 | 5.0 | 0.25 |"
    assert spent(samples[1:]) == ""


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
            "fraction_of_limit_c1": 0.85,
        }
    )


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "llm.json"
    assert read(file) == {}
    first = Found("2026-11-26", "3.11.7", 2, [sample("quorum:plain", "code", 50.0, 4)] * 2)
    second = Found("2026-11-26", "3.11.7", 2, failed={"110m genai:draft": "OSError: none"})
    second.versions["quorum:plain"] = "onnxruntime 1.32"
    second.late_shares["110m quorum:plain"] = 0.25
    write({"loads": first, "peers": second}, file)
    assert read(file) == {"loads": first, "peers": second}
    assert list(json.loads(file.read_text())) == ["loads", "peers"]


def test_a_newer_run_replaces_what_it_measured_again_and_nothing_else() -> None:
    older = Found("2026-11-25", "3.11.7", 2, [sample("quorum:plain", "code", 50.0)] * 3)
    older.samples.append(sample("quorum:plain", "edits", 70.0))
    older.failed = {"110m quorum:auto": "OSError: gone", "110m genai:draft": "OSError: none"}
    newer = Found("2026-11-26", "3.13.1", 2, [sample("quorum:plain", "code", 60.0)])
    newer.samples.append(sample("quorum:auto", "code", 99.0))
    both = older.with_newer(newer)
    assert [s.tokens_per_s for s in both.samples] == [70.0, 60.0, 99.0]
    assert both.failed == {"110m genai:draft": "OSError: none"}
    assert (both.date, both.python) == ("2026-11-26", "3.13.1")
