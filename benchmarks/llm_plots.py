"""The plots of benchmarks.llm: Quorum by load, and beside other engines."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.llm_report import Found, Sample, ratio, speed


def draw(results: Mapping[str, Found], path: Path) -> None:
    """Plots of the suites that were measured: Quorum by load, and beside other engines."""
    if "loads" in results:
        _draw_loads(results["loads"].samples, path)
    if "peers" in results:
        _draw_peers(results["peers"].samples, path.with_stem(f"{path.stem}-peers"))


def _draw_peers(samples: Sequence[Sample], path: Path) -> None:
    """Tokens per second of each system, mean of the kinds' medians; faded where the texts are not
    all those of its own plain decoding."""
    import matplotlib.pyplot as plt

    loads = sorted({s.concurrency for s in samples})
    names = sorted({s.system for s in samples}, key=_by_precision)
    figure, axes = plt.subplots(
        1, len(loads), figsize=(6 * len(loads), 0.24 * len(names) + 1.2), squeeze=False, sharey=True
    )
    for axis, load in zip(axes[0], loads, strict=True):
        for place, name in enumerate(names):
            own = [s for s in samples if (s.system, s.concurrency) == (name, load)]
            if not own:
                continue
            tokens_per_s = speed(own)
            keeps_text = all(s.same_as_plain in (None, s.num_texts) for s in own)
            color = "tab:blue" if name.startswith("quorum:") else "tab:gray"
            axis.barh(place, tokens_per_s, color=color, alpha=1.0 if keeps_text else 0.35)
            axis.text(tokens_per_s, place, f" {tokens_per_s:.0f}", va="center", fontsize=7)
        axis.set(xlabel="tokens/s, greedy", title=f"{load} at a time")
        axis.margins(x=0.12)
    axes[0][0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0][0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _by_precision(system: str) -> tuple[int, str]:
    precision = [*system.split(":"), "fp32"][2]
    return ("fp32", "int8", "int4").index(precision), system


def _draw_loads(samples: Sequence[Sample], path: Path) -> None:
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
                kind: [ratio(own[load], base[load], kind) for load in drawn] for kind in kinds
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
