"""What benchmarks.recommender makes of its samples: tables, and the figures that were set as goals.

Systems are compared by the medians of their rounds; Quorum always with the best of the others.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOOKUP, FP32, INT8 = "quorum", "quorum:fp32", "quorum:int8"
LIMIT = "limit:"
BASELINE = "tensorflow:"
"""The paper's."""
COMPARED = 2048
"""Items of a batch at which systems are compared."""
FLAGS = re.compile(r"\b(avx2|avx512f|avx512_vnni|avx512_bf16|avx_vnni|amx_int8|fma|f16c)\b")


@dataclass(frozen=True, slots=True)
class Sample:
    """A turn of a system in a round."""

    system: str
    what: str
    batch: int
    ns_per_item: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Of one item at a time, from ids to score, in one round."""

    system: str
    calls: int
    p50_us: float
    p99_us: float


HALF_OF_GOAL, HALF_OF_MOST = "open, half of the goal", "open"
"""Requests that come at random moments."""


@dataclass(frozen=True, slots=True)
class Rest:
    """A round through the REST door."""

    model: str
    loop: str
    """`closed N`: so many connections; or one of the open ones."""
    items_per_s: float
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(slots=True)
class Found:
    """What one suite found."""

    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="minutes"))
    machine: dict[str, object] = field(default_factory=lambda: machine())
    rounds: int = 0
    threads: int = 0
    model: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    """By engine."""
    huge_bytes: dict[str, int] = field(default_factory=dict)
    """By engine, of its memory on huge pages."""
    arena_bytes: int = 0
    arena_huge_share: float = 0.0
    """Of Quorum's arena, on huge pages."""
    failed: dict[str, str] = field(default_factory=dict)
    """By engine or system, why there are no (more) samples of it."""
    differences: dict[str, float] = field(default_factory=dict)
    """By system, the largest one of a score from that of ONNX Runtime in fp32."""
    samples: list[Sample] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)
    rest: list[Rest] = field(default_factory=list)


def machine() -> dict[str, object]:
    """What timings depend on."""
    listing = Path("/proc/cpuinfo").read_text()
    name = re.search(r"^model name\s*:\s*(.+)$", listing, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", listing, re.MULTILINE)
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "cpu": name[1] if name else platform.processor(),
        "cores": os.cpu_count(),
        "flags": sorted(set(FLAGS.findall(flags[1]))) if flags else [],
        "kernel": platform.release(),
        "huge_pages": pages.read_text().strip() if pages.is_file() else "unknown",
        "python": platform.python_version(),
    }


def read(path: Path) -> dict[str, Found]:
    """Results by suite; none where there is no file."""
    if not path.is_file():
        return {}
    suites: dict[str, dict[str, Any]] = json.loads(path.read_text())["suites"]
    kinds = {"samples": Sample, "latencies": Latency, "rest": Rest}
    return {
        name: Found(
            **{key: value for key, value in found.items() if key not in kinds},
            **{key: [kind(*row) for row in found[key]] for key, kind in kinds.items()},
        )
        for name, found in suites.items()
    }


def write(results: Mapping[str, Found], path: Path) -> None:
    """The figures; then each suite, a line for each sample: its values in the order of its
    class."""
    suites = []
    for name, found in results.items():
        values = asdict(found)
        lists = ("samples", "latencies", "rest")
        head = json.dumps({k: v for k, v in values.items() if k not in lists}, indent=1)[:-2]
        rows = [f"{json.dumps(key)}: [\n{_rows(values[key])}]" for key in lists]
        suites.append(f"{json.dumps(name)}: {head},\n " + ",\n ".join(rows) + "}")
    top = [f"{json.dumps(key)}: {value}" for key, value in figures(results).items()]
    whole = [*top, '"suites": {\n' + ",\n".join(suites) + "}"]
    path.write_text("{" + ",\n".join(whole) + "}\n")


def _rows(samples: Iterable[Mapping[str, object]]) -> str:
    return ",\n".join(json.dumps(list(sample.values())) for sample in samples)


def figures(results: Mapping[str, Found]) -> dict[str, float]:
    """The goals' names, as far as they were measured."""
    found: dict[str, float] = {}
    if "small" in results:
        found |= _lookups(results["small"].samples)
        found |= _scores(results["small"].samples)
        for system, suffix in ((INT8, ""), (FP32, "_fp32")):
            own = [one for one in results["small"].latencies if one.system == system]
            if own:
                found[f"single_item_us_p50{suffix}"] = statistics.median(o.p50_us for o in own)
                found[f"single_item_us_p99{suffix}"] = statistics.median(o.p99_us for o in own)
    if "rest" in results:
        found |= _rest(results["rest"].rest)
    if "large" in results:
        large = medians(results["large"].samples, "score")
        own = [ns for (system, _), ns in large.items() if system == INT8]
        if own:
            found["large_items_per_s"] = 1e9 / min(own)
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def medians(samples: Iterable[Sample], what: str) -> dict[tuple[str, int], float]:
    """Nanoseconds an item, by system and batch."""
    groups: dict[tuple[str, int], list[float]] = {}
    for sample in samples:
        if sample.what == what:
            groups.setdefault((sample.system, sample.batch), []).append(sample.ns_per_item)
    return {key: statistics.median(group) for key, group in groups.items()}


def _lookups(samples: Sequence[Sample]) -> dict[str, float]:
    found = medians(samples, "lookup")
    speedups = {}
    for batch in (2048, 64, 1):
        best = _best_peer(found, batch)
        if best and (LOOKUP, batch) in found:
            speedups[f"lookup_speedup_b{batch}"] = best / found[LOOKUP, batch]
    limits = [ns for (s, b), ns in found.items() if s.startswith(LIMIT) and b == COMPARED]
    if limits and (LOOKUP, COMPARED) in found:
        speedups["lookup_fraction_of_limit"] = min(limits) / found[LOOKUP, COMPARED]
    return speedups


def _scores(samples: Sequence[Sample]) -> dict[str, float]:
    found = medians(samples, "score")
    int8, fp32 = found.get((INT8, COMPARED)), found.get((FP32, COMPARED))
    peer, baseline = _best_peer(found, COMPARED), _best_peer(found, COMPARED, BASELINE)
    speedups = {}
    if int8:
        best = min(ns for (system, _), ns in found.items() if system == INT8)
        speedups["e2e_items_per_s"] = 1e9 / best
    if int8 and baseline:
        speedups["e2e_speedup_int8_tf"] = baseline / int8
    if int8 and peer:
        speedups["e2e_speedup_int8"] = peer / int8
    if fp32 and peer:
        speedups["e2e_speedup_fp32"] = peer / fp32
    return speedups


def _rest(rounds: Sequence[Rest]) -> dict[str, float]:
    """Of the model in int8: the number of connections that brings the most."""
    own = [one for one in rounds if one.model.endswith("int8")]
    by_loop: dict[str, list[float]] = {}
    for one in own:
        by_loop.setdefault(one.loop, []).append(one.items_per_s)
    closed = [statistics.median(v) for loop, v in by_loop.items() if loop.startswith("closed")]
    found = {"rest_items_per_s": max(closed)} if closed else {}
    names = {HALF_OF_GOAL: "rest_p99_ms", HALF_OF_MOST: "rest_p99_ms_at_half_of_most"}
    for loop, name in names.items():
        tails = [one.p99_ms for one in own if one.loop == loop and one.p99_ms is not None]
        if tails:
            found[name] = statistics.median(tails)
    return found


def is_peer(system: str) -> bool:
    return system.partition(":")[0] not in ("quorum", "limit")


def _best_peer(
    found: Mapping[tuple[str, int], float], batch: int, prefix: str = ""
) -> float | None:
    own = [ns for (s, b), ns in found.items() if is_peer(s) and b == batch and s.startswith(prefix)]
    return min(own, default=None)


def tables(found: Found) -> str:
    """Medians with minima and maxima, of all that the suite measured."""
    parts = [
        f"{found.model}, {found.threads} threads, {found.rounds} rounds"
        + "".join(
            f"; {name} {size / 1e9:.2f} GB on huge pages" for name, size in found.huge_bytes.items()
        )
    ]
    for what, unit in (("lookup", "ns an item"), ("score", "items/s")):
        if any(sample.what == what for sample in found.samples):
            parts.append(f"{what}, {unit}\n{_table(found.samples, what)}")
    for system in dict.fromkeys(one.system for one in found.latencies):
        own = [one for one in found.latencies if one.system == system]
        p50, p99 = _spread([o.p50_us for o in own]), _spread([o.p99_us for o in own])
        parts.append(f"{system}, one item: p50 {p50} us, p99 {p99} us")
    for model, loop in dict.fromkeys((one.model, one.loop) for one in found.rest):
        rounds = [one for one in found.rest if (one.model, one.loop) == (model, loop)]
        tails = [one.p99_ms for one in rounds if one.p99_ms is not None]
        shown = f", p99 {_spread(tails)} ms" if tails else ""
        speed = _spread([one.items_per_s for one in rounds])
        parts.append(f"REST, {model}, {loop}: {speed} items/s{shown}")
    return "\n\n".join(parts)


def _table(samples: Sequence[Sample], what: str) -> str:
    inside = [sample for sample in samples if sample.what == what]
    batches = sorted({sample.batch for sample in inside})
    lines = ["| system |" + "".join(f" {batch} at a time |" for batch in batches)]
    lines.append("|---" * (len(batches) + 1) + "|")
    names = {sample.system for sample in inside}
    for system in sorted(names, key=lambda name: (is_peer(name), name.startswith(LIMIT), name)):
        row = f"| {system} |"
        for batch in batches:
            own = [s.ns_per_item for s in inside if (s.system, s.batch) == (system, batch)]
            shown = own if what == "lookup" else [1e9 / ns for ns in own]
            row += f" {_spread(shown) if own else ''} |"
        lines.append(row)
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    shown = [_short(v) for v in (statistics.median(values), min(values), max(values))]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
