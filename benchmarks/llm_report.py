"""What benchmarks.llm makes of its samples: a table, the figures that were set as goals, a plot.

Speeds differ more between kinds of prompts than between systems. So a system is compared with
another one kind by kind, by medians, and the mean of these ratios is given.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


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
    drafting: float | None
    control: float | None
    same_as_plain: int | None
    """Of the texts of this run, those that are the system's own plain ones; greedy alone."""


def table(samples: Sequence[Sample]) -> str:
    """Medians with the spread, over all kinds, and their ratio to Quorum's plain decoding."""
    lines = ["| target | temperature | at a time | system | tokens/s | over plain | by kind "
             "| tokens a pass | drafting | control | same texts |", "|---" * 11 + "|"]  # fmt: skip
    groups = sorted({(s.target, s.temperature, s.concurrency) for s in samples})
    for group in groups:
        inside = [s for s in samples if (s.target, s.temperature, s.concurrency) == group]
        base = [s for s in inside if s.system == "quorum:plain"]
        for name in dict.fromkeys(s.system for s in inside):
            own = [s for s in inside if s.system == name]
            kinds = dict.fromkeys(s.kind for s in own)
            ratios = {kind: _ratio(own, base, kind) for kind in kinds} if base else {}
            speeds = [s.tokens_per_s for s in own]
            compared = [s for s in own if s.same_as_plain is not None]
            num_texts = sum(s.num_texts for s in compared)
            lines.append(
                f"| {group[0]} | {group[1]:g} | {group[2]} | {name} "
                f"| {statistics.median(speeds):.0f} ({min(speeds):.0f} to {max(speeds):.0f}) "
                f"| {_mean(ratios.values())} "
                f"| {', '.join(f'{kind} {ratio:.2f}' for kind, ratio in ratios.items())} "
                f"| {_mean(s.acceptance for s in own)} | {_mean(s.drafting for s in own)} "
                f"| {_mean(s.control for s in own)} "
                f"| {sum(s.same_as_plain or 0 for s in compared)}/{num_texts} |"
            )
    return "\n".join(lines)


def _ratio(own: Sequence[Sample], base: Sequence[Sample], kind: str) -> float:
    """Of medians: one prompt kind after the other, since they differ more than systems do."""
    mine = statistics.median(s.tokens_per_s for s in own if s.kind == kind)
    return mine / statistics.median(s.tokens_per_s for s in base if s.kind == kind)


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
    return statistics.fmean(_ratio(own, base, kind) for kind in {s.kind for s in own})


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
            ratios += [_ratio(own, base, kind) for kind in {s.kind for s in own}]
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
            kinds = {s.kind for s in own}
            speeds[name] = statistics.fmean(
                statistics.median(s.tokens_per_s for s in own if s.kind == kind) for kind in kinds
            )
    ours = [speed for name, speed in speeds.items() if name.startswith("quorum:auto")]
    theirs = [speed for name, speed in speeds.items() if not name.startswith("quorum:")]
    return max(ours) / max(theirs) if ours and theirs else None


def _overhead(samples: Sequence[Sample], concurrency: int) -> float | None:
    """Share of the rounds' time outside the target's forward passes."""
    shares = [
        s.drafting + s.control
        for s in _cell(samples, "quorum:auto", concurrency)
        if s.drafting is not None and s.control is not None
    ]
    return statistics.fmean(shares) if shares else None


def draw(samples: Sequence[Sample], path: Path) -> None:
    """Speed over plain decoding by requests at a time: a panel for each target and temperature, a
    line for each system, a thin one for each kind of prompts."""
    import matplotlib.pyplot as plt

    panels = sorted({(s.target, s.temperature) for s in samples})
    figure, axes = plt.subplots(
        1, len(panels), figsize=(5 * len(panels), 4), squeeze=False, sharey=True
    )
    for axis, (target, temperature) in zip(axes[0], panels, strict=True):
        inside = [s for s in samples if (s.target, s.temperature) == (target, temperature)]
        loads = sorted({s.concurrency for s in inside})
        base = {load: [s for s in inside if (s.system, s.concurrency) == ("quorum:plain", load)]
                for load in loads}  # fmt: skip
        for name in dict.fromkeys(s.system for s in inside if s.system != "quorum:plain"):
            own = {load: [s for s in inside if (s.system, s.concurrency) == (name, load)]
                   for load in loads}  # fmt: skip
            drawn = [load for load in loads if own[load] and base[load]]
            if not drawn:
                continue
            kinds = sorted({s.kind for s in inside if s.system == name})
            ratios = {
                kind: [_ratio(own[load], base[load], kind) for load in drawn] for kind in kinds
            }
            means = [statistics.fmean(column) for column in zip(*ratios.values(), strict=True)]
            (line,) = axis.plot(drawn, means, marker="o", label=name)
            for values in ratios.values():
                axis.plot(drawn, values, linewidth=0.6, alpha=0.5, color=line.get_color())
        axis.axhline(1.0, color="gray", linewidth=0.8)
        axis.set(xscale="log", xlabel="requests at a time", title=f"{target}, T = {temperature:g}")
        axis.set_xticks(loads, [str(load) for load in loads])
        axis.minorticks_off()
        axis.legend()
    axes[0][0].set_ylabel("tokens/s over plain decoding")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
