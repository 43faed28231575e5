"""python -m tests.observability_tables: writes the tables of docs/observability.md anew, from the
metrics of the code and the rules of deploy/observability."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from prometheus_client.metrics import MetricWrapperBase

from services.__main__ import PARTS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "observability.md"
ALERTS = ROOT / "deploy" / "observability" / "alerts.yml"
MODULES = {
    **{part: f"services.{part}.metrics" for part in PARTS},
    "each": "shared.monitor",
    "each, of the bus": "shared.bus.metrics",
    "each, of traces": "shared.tracing",
    "autoscaler": "deploy.autoscaler.metrics",
}


def metrics(module: str) -> Iterator[MetricWrapperBase]:
    """Those that a module makes, in its order."""
    for value in vars(importlib.import_module(module)).values():
        if isinstance(value, MetricWrapperBase):
            yield value


def metric_table() -> str:
    rows = []
    for service, module in MODULES.items():
        for metric in metrics(module):
            family = metric.describe()[0]
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)
            rows.append((service, f"`{name}`", family.type, labels, family.documentation))
    return table(("service", "metric", "kind", "labels", "what it counts"), rows)


def alert_table() -> str:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    rows = [
        (f"`{r['alert']}`", r["labels"]["severity"], r.get("for", "at once"), f"`{r['expr']}`")
        for r in rules
    ]
    return table(("alert", "severity", "after", "when"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines
    )


def written(page: str) -> str:
    """The page with its tables as they should be."""
    for name, made in (("metrics", metric_table()), ("alerts", alert_table())):
        between = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=\n<!-- end of {name} -->)", re.DOTALL)
        page, count = between.subn(lambda _, made=made: made, page)
        if count != 1:
            raise ValueError(f"{PAGE.name} has no place for {name}")
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
