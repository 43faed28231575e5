"""What benchmarks.llm makes of its samples: a table, the figures that were set as goals.

Speeds differ more between kinds of prompts than between systems. So a system is compared with
another one kind by kind, by medians, and the mean of these ratios is given.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one cell by one system."""

    target: str
    system: str
    kind: str
    temperature: float
    concurrency: int
    num_texts: int
    tokens_per_s: float
    acceptance: float | None
    same_as_plain: int | None
    """Of the texts of this run, those that are the system's own plain ones."""
    shares: dict[str, float] = field(default_factory=dict)
    """Of the rounds' time, by what it went into; empty for peers."""
    ready: float | None = None
    """Share of the draft models' tokens that had been drafted ahead."""

    @property
    def place(self) -> tuple[str, str, str, float, int]:
        """Where it was measured."""
        return self.target, self.system, self.kind, self.temperature, self.concurrency

    @property
    def overhead(self) -> float | None:
        """Share of the rounds' time outside the target's forward passes."""
        return 1 - self.shares["forward_pass"] if self.shares else None


@dataclass(slots=True)
class Found:
    """What one suite found."""

    date: str
    python: str
    cores: int
    samples: list[Sample] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """By target and system, why there are no (more) samples of it."""
    late_shares: dict[str, float] = field(default_factory=dict)
    """By target and system, how often the gateway's event loop was later than 2 ms."""

    def with_newer(self, newer: Found) -> Found:
        """A newer run, and what it did not measure again."""
        again = {sample.place for sample in newer.samples}
        kept = [sample for sample in self.samples if sample.place not in again]
        ran = {f"{sample.target} {sample.system}" for sample in newer.samples}
        failed = {system: why for system, why in self.failed.items() if system not in ran}
        return replace(
            newer,
            samples=kept + newer.samples,
            versions=self.versions | newer.versions,
            failed=failed | newer.failed,
            late_shares=self.late_shares | newer.late_shares,
        )


def read(path: Path) -> dict[str, Found]:
    """Results by suite; none where there is no file."""
    if not path.is_file():
        return {}
    suites: dict[str, dict[str, Any]] = json.loads(path.read_text())
    return {
        name: Found(**{**found, "samples": [Sample(*values) for values in found["samples"]]})
        for name, found in suites.items()
    }


def write(results: Mapping[str, Found], path: Path) -> None:
    """JSON, a line for each sample: its values in the order of Sample's fields."""
    suites = []
    for name, found in results.items():
        head = {key: value for key, value in asdict(found).items() if key != "samples"}
        rows = ",\n".join(json.dumps(list(asdict(sample).values())) for sample in found.samples)
        start = json.dumps(head, indent=1)[:-2]
        suites.append(f'{json.dumps(name)}: {start},\n "samples": [\n{rows}\n]}}')
    path.write_text("{" + ",\n".join(suites) + "}\n")


def table(samples: Sequence[Sample]) -> str:
    """Medians with the spread, over all kinds, and their ratio to Quorum's plain decoding (of the
    same precision, over the same bus)."""
    lines = ["| target | temperature | at a time | system | runs | tokens/s | over plain | by kind "
             "| tokens a pass | overhead | same texts |", "|---" * 11 + "|"]  # fmt: skip
    groups = sorted({(s.target, s.temperature, s.concurrency) for s in samples})
    for group in groups:
        inside = [s for s in samples if (s.target, s.temperature, s.concurrency) == group]
        for name in dict.fromkeys(s.system for s in inside):
            own = [s for s in inside if s.system == name]
            base = [s for s in inside if s.system == plain_of(name)]
            kinds = dict.fromkeys(s.kind for s in own)
            ratios = {kind: ratio(own, base, kind) for kind in kinds} if base else {}
            speeds = [s.tokens_per_s for s in own]
            compared = [s for s in own if s.same_as_plain is not None]
            num_texts = sum(s.num_texts for s in compared)
            lines.append(
                f"| {group[0]} | {group[1]:g} | {group[2]} | {name} | {len(own) // len(kinds)} "
                f"| {statistics.median(speeds):.0f} ({min(speeds):.0f} to {max(speeds):.0f}) "
                f"| {_mean(ratios.values())} "
                f"| {', '.join(f'{kind} {value:.2f}' for kind, value in ratios.items())} "
                f"| {_mean(s.acceptance for s in own)} | {_mean(s.overhead for s in own)} "
                f"| {sum(s.same_as_plain or 0 for s in compared)}/{num_texts} |"
            )
    return "\n".join(lines)


def plain_of(system: str) -> str:
    """Quorum's plain decoding over the same bus and in the same precision."""
    _, mode, *precision = system.split(":")
    bus = "redis-" if mode.startswith("redis-") else ""
    return ":".join(("quorum", f"{bus}plain", *precision))


def spent(samples: Sequence[Sample]) -> str:
    """What the rounds' time of each Quorum system went into, %, and how much of what draft models
    proposed had been drafted ahead."""
    told = [s for s in samples if s.shares]
    if not told:
        return ""
    names = list(told[0].shares)
    lines = [f"| target | temperature | at a time | system | {' | '.join(names)} | ready |",
             "|---" * (5 + len(names)) + "|"]  # fmt: skip
    for key in sorted({(s.target, s.temperature, s.concurrency, s.system) for s in told}):
        own = [s for s in told if (s.target, s.temperature, s.concurrency, s.system) == key]
        means = [100 * statistics.fmean(s.shares[name] for s in own) for name in names]
        lines.append(
            f"| {key[0]} | {key[1]:g} | {key[2]} | {key[3]} "
            f"| {' | '.join(f'{mean:.1f}' for mean in means)} | {_mean(s.ready for s in own)} |"
        )
    return "\n".join(lines)


def ratio(own: Sequence[Sample], base: Sequence[Sample], kind: str) -> float:
    """Of medians: one prompt kind after the other, since they differ more than systems do."""
    mine = statistics.median(s.tokens_per_s for s in own if s.kind == kind)
    return mine / statistics.median(s.tokens_per_s for s in base if s.kind == kind)


def speed(samples: Sequence[Sample]) -> float:
    """Mean of the kinds' medians, tokens/s."""
    kinds = {s.kind for s in samples}
    return statistics.fmean(
        statistics.median(s.tokens_per_s for s in samples if s.kind == kind) for kind in kinds
    )


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.fmean(known):.2f}" if known else ""


def figures(samples: Sequence[Sample]) -> dict[str, float]:
    """The figures by the names of their goals, as far as there are samples for them. Greedy, on
    the 110 M target and in fp32 unless the name says otherwise."""
    found = {
        "speedup_c1": _over(samples, "quorum:auto", "quorum:plain", 1),
        "speedup_c1_redis": _over(samples, "quorum:redis-auto", "quorum:redis-plain", 1),
        "speedup_c8": _over(samples, "quorum:auto", "quorum:plain", 8),
        "worst_speedup_c1_to_c64": _worst(samples),
        "over_single_drafter_c8": _over(samples, "quorum:auto", "quorum:single", 8),
        "over_best_peer_c1": _over_best_peer(samples, 1),
        "over_best_peer_c8": _over_best_peer(samples, 8),
        "overhead_share_c1": _overhead(samples, 1),
        "overhead_share_c8": _overhead(samples, 8),
        "fraction_of_limit_c1": _fraction_of_limit(samples, 1),
        "speedup_700m_c1": _over(samples, "quorum:auto:int8", "quorum:plain:int8", 1, "700m"),
    }
    return {name: figure for name, figure in found.items() if figure is not None}


def _cell(
    samples: Sequence[Sample], system: str, concurrency: int, target: str = "110m"
) -> list[Sample]:
    """A system's greedy samples."""
    return [s for s in samples if (s.target, s.system, s.concurrency, s.temperature)
            == (target, system, concurrency, 0.0)]  # fmt: skip


def _over(
    samples: Sequence[Sample], system: str, other: str, concurrency: int, target: str = "110m"
) -> float | None:
    own = _cell(samples, system, concurrency, target)
    base = _cell(samples, other, concurrency, target)
    if not own or not base:
        return None
    return statistics.fmean(ratio(own, base, kind) for kind in {s.kind for s in own})


def _worst(samples: Sequence[Sample]) -> float | None:
    """Of all kinds, loads and temperatures."""
    ratios = []
    for concurrency, temperature in {(s.concurrency, s.temperature) for s in samples}:
        own, base = (
            [s for s in samples if (s.target, s.system, s.concurrency, s.temperature)
             == ("110m", system, concurrency, temperature)]
            for system in ("quorum:auto", "quorum:plain")
        )  # fmt: skip
        if own and base:
            ratios += [ratio(own, base, kind) for kind in {s.kind for s in own}]
    return min(ratios, default=None)


def _over_best_peer(samples: Sequence[Sample], concurrency: int) -> float | None:
    """Each engine in its best way and precision. A peer counts where its texts are those of its own
    plain decoding, all of them."""
    inside = [s for s in samples if (s.target, s.concurrency, s.temperature)
              == ("110m", concurrency, 0.0)]  # fmt: skip
    speeds: dict[str, float] = {}
    for name in {s.system for s in inside}:
        own = [s for s in inside if s.system == name]
        if all(s.same_as_plain in (None, s.num_texts) for s in own):
            speeds[name] = speed(own)
    ours = [speed for name, speed in speeds.items() if name.startswith("quorum:auto")]
    theirs = [speed for name, speed in speeds.items() if not name.startswith("quorum:")]
    return max(ours) / max(theirs) if ours and theirs else None


def _overhead(samples: Sequence[Sample], concurrency: int) -> float | None:
    """Share of the rounds' time outside the target's forward passes."""
    shares = [s.overhead for s in _cell(samples, "quorum:auto", concurrency)]
    known = [share for share in shares if share is not None]
    return statistics.fmean(known) if known else None


def _fraction_of_limit(samples: Sequence[Sample], concurrency: int) -> float | None:
    """The speed as a fraction of what it would be if only forward passes took time."""
    overhead = _overhead(samples, concurrency)
    return None if overhead is None else 1 - overhead
