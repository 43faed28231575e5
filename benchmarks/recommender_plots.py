"""The plot of benchmarks.recommender: lookups, and items from ids to scores, by batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.recommender_report import FP32, Found, is_peer, medians

MARKERS = {"numpy": "v", "torch": "s", "onnxruntime": "^", "tensorflow": "D", "fbgemm": "P"}


def draw(results: Mapping[str, Found], path: Path) -> None:
    """Of the small model; Quorum and the limit in colour, a grey line for each peer's best way."""
    if "small" not in results:
        return
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5))
    for axis, what, label in zip(
        axes,
        ("lookup", "score"),
        ("ns an item, lookups alone", "items/s, from ids to score"),
        strict=True,
    ):
        found = medians(results["small"].samples, what)
        shown = {key: 1e9 / ns if what == "score" else ns for key, ns in found.items()}
        batches = sorted({batch for _, batch in shown})
        for name, points in _lines(shown, is_most=what == "score").items():
            at = [batch for batch in batches if batch in points]
            values = [points[batch] for batch in at]
            axis.plot(at, values, label=name, **_style(name))
        axis.set(xscale="log", yscale="log", xlabel="items at a time", ylabel=label)
        axis.set_xticks(batches, [str(batch) for batch in batches])
        axis.minorticks_off()
        axis.grid(visible=True, which="major", linewidth=0.3)
        axis.legend(fontsize=8)
    figure.suptitle(f"{results['small'].model}, {results['small'].machine['cpu']}, 2 threads")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _style(name: str) -> dict[str, str | float]:
    if is_peer(name):
        return {"color": "gray", "marker": MARKERS.get(name, "."), "linewidth": 0.8}
    if name == "limit":
        return {"color": "black", "linestyle": ":"}
    color = "tab:orange" if name == FP32 else "tab:blue"
    return {"color": color, "marker": "o", "linewidth": 2.0}


def _lines(shown: Mapping[tuple[str, int], float], is_most: bool) -> dict[str, dict[int, float]]:
    """By line and batch; a peer and the limit are the best of their ways at each batch."""
    best = max if is_most else min
    lines: dict[str, dict[int, float]] = {}
    for (system, batch), value in sorted(shown.items(), key=lambda item: is_peer(item[0][0])):
        engine, _, way = system.partition(":")
        if engine == "quorum" and way.endswith(("thread", "threads")):
            continue
        name = system if engine == "quorum" else engine
        points = lines.setdefault(name, {})
        points[batch] = best(points.get(batch, value), value)
    return lines
