"""What Prometheus and Grafana are told to look at, exists: metrics, labels, services, files."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from services.__main__ import PARTS
from tests.observability_tables import PAGE, metrics, written
from tests.test_deploy import SERVICES
from tests.test_docs import ROOT

FOLDER = ROOT / "deploy" / "observability"
STACK: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "observability.yml").read_text())
PROMETHEUS: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
RULES = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
DASHBOARDS = sorted(FOLDER.glob("grafana/dashboards/*.json"))
SUFFIXES = {
    "counter": ["_total"],
    "gauge": [""],
    "histogram": ["_bucket", "_sum", "_count"],
    "info": ["_info"],
}
OF_TARGETS = {"job", "instance", "service"}
"""Labels that Prometheus gives to whatever it scrapes here."""
OF_VLLM = {
    "vllm:e2e_request_latency_seconds_bucket": {"le", "model_name"},
    "vllm:e2e_request_latency_seconds_count": {"model_name"},
    "vllm:e2e_request_latency_seconds_sum": {"model_name"},
    "vllm:generation_tokens_total": {"model_name"},
    "vllm:inter_token_latency_seconds_bucket": {"le", "model_name"},
    "vllm:inter_token_latency_seconds_count": {"model_name"},
    "vllm:inter_token_latency_seconds_sum": {"model_name"},
    "vllm:kv_cache_usage_perc": {"model_name"},
    "vllm:num_requests_running": {"model_name"},
    "vllm:num_requests_waiting": {"model_name"},
    "vllm:prefix_cache_hits_total": {"model_name"},
    "vllm:prefix_cache_queries_total": {"model_name"},
    "vllm:prompt_tokens_total": {"model_name"},
    "vllm:request_decode_time_seconds_sum": {"model_name"},
    "vllm:request_generation_tokens_bucket": {"le", "model_name"},
    "vllm:request_max_num_generation_tokens_sum": {"model_name"},
    "vllm:request_prefill_time_seconds_sum": {"model_name"},
    "vllm:request_prompt_tokens_bucket": {"le", "model_name"},
    "vllm:request_queue_time_seconds_sum": {"model_name"},
    "vllm:request_success_total": {"finished_reason", "model_name"},
    "vllm:request_time_per_output_token_seconds_bucket": {"le", "model_name"},
    "vllm:request_time_per_output_token_seconds_count": {"model_name"},
    "vllm:spec_decode_num_accepted_tokens_per_pos_total": {"model_name", "position"},
    "vllm:spec_decode_num_accepted_tokens_total": {"model_name"},
    "vllm:spec_decode_num_draft_tokens_total": {"model_name"},
    "vllm:spec_decode_num_drafts_total": {"model_name"},
    "vllm:time_to_first_token_seconds_bucket": {"le", "model_name"},
    "vllm:time_to_first_token_seconds_count": {"model_name"},
    "vllm:time_to_first_token_seconds_sum": {"model_name"},
}
"""What vLLM's own Grafana dashboards read (examples/observability there, November 2026), but for
what has no meaning here: nothing is preempted."""
OF_ALERTS = OF_TARGETS | {"alertname", "alertstate", "severity", "topic"}


def metric_modules() -> list[ModuleType]:
    names = [f"services.{part}.metrics" for part in PARTS]
    names += ["shared.bus.metrics", "shared.monitor", "shared.tracing"]
    return [importlib.import_module(name) for name in names]


def known_series() -> dict[str, set[str]]:
    """Every series that a process of ours, or Prometheus about it, can have: name to labels."""
    metrics = [
        value
        for module in metric_modules()
        for value in vars(module).values()
        if isinstance(value, MetricWrapperBase)
    ]
    labels = {metric.describe()[0].name: set(metric._labelnames) for metric in metrics}
    series = {
        family.name + suffix: labels.get(family.name, set()) | OF_TARGETS
        for family in REGISTRY.collect()
        for suffix in SUFFIXES[family.type]
    }
    for name in series:
        if name.endswith("_bucket"):
            series[name] |= {"le"}
    return series | {"up": OF_TARGETS, "ALERTS": OF_ALERTS}


def nodes(expression: str) -> list[Any]:
    found: list[Any] = []
    promql.walk(promql.parse(expression), found.append)
    return found


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Name and labels matched of each series that an expression reads."""
    for node in nodes(expression):
        if isinstance(node, promql.VectorSelector):
            yield node.name, {matcher.name for matcher in node.matchers.matchers}


def labels_named(expression: str) -> set[str]:
    """Labels that an expression groups or joins by."""
    named: set[str] = set()
    for node in nodes(expression):
        modifier = getattr(node, "modifier", None)
        if isinstance(node, promql.AggregateExpr) and modifier:
            named |= set(modifier.labels)
        elif isinstance(node, promql.BinaryExpr) and modifier:
            named |= set(modifier.group_labels or [])
            named |= set(getattr(modifier.matching, "labels", None) or [])
    return named


def recorded() -> dict[str, set[str]]:
    return {rule["record"]: labels_named(rule["expr"]) for rule in RULES if "record" in rule}


SERIES = known_series() | recorded()


def check(expression: str) -> set[str]:
    """Every series and label that an expression names exists. Returns the labels at hand."""
    at_hand: set[str] = set()
    for name, matched in selectors(expression):
        assert name in SERIES, f"{name} is no metric of ours: {expression}"
        assert matched <= SERIES[name], f"{name} has no label {matched - SERIES[name]}"
        at_hand |= SERIES[name]
    assert labels_named(expression) <= at_hand, expression
    return at_hand


def panels(path: Path) -> list[dict[str, Any]]:
    dashboard = json.loads(path.read_text())
    return [p for panel in dashboard["panels"] for p in [panel, *panel.get("panels", [])]]


def plain(expression: str) -> str:
    """A dashboard's expression with Grafana's variables filled in."""
    filled = re.sub(r"\$__(rate_interval|range|interval)\b", "1m", expression)
    return re.sub(r"\$\w+", ".*", filled)


def test_names_with_a_wrong_suffix_or_label_would_be_found() -> None:
    for wrong in (
        "rate(late_drafts[1m])",
        "num_requests_running_total",
        "rate(draft_wait_seconds[1m])",
        'draft_timeouts_total{model_name="x"}',
        "sum by (drafter) (draft_timeouts_total)",
    ):
        with pytest.raises(AssertionError):
            check(wrong)
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        check("sum by (drafter")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_reads_what_exists(rule: dict[str, Any]) -> None:
    at_hand = check(rule["expr"])
    for text in rule.get("annotations", {}).values():
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= at_hand


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "action"}
    known = (ROOT / ".env.example").read_text()
    for name in re.findall(r"\b[A-Z]+_[A-Z_]+[A-Z]\b", rule["annotations"]["action"]):
        assert name in known, name
    for name in re.findall(r"--scale ([\w-]+)=", rule["annotations"]["action"]):
        assert name in SERVICES


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus)")
class TestPrometheus:
    """Its own reading of the files."""

    def test_it_takes_the_rules(self) -> None:
        assert f"{len(RULES)} rules found" in promtool("check", "rules", FOLDER / "alerts.yml")

    def test_it_takes_its_settings(self, tmp_path: Path) -> None:
        settings = (FOLDER / "prometheus.yml").read_text()
        here = settings.replace("/etc/prometheus/alerts.yml", str(FOLDER / "alerts.yml"))
        assert here != settings
        (tmp_path / "prometheus.yml").write_text(here)
        assert "is valid prometheus config" in promtool(
            "check", "config", tmp_path / "prometheus.yml"
        )

    def test_alerts_fire_when_they_should_and_only_then(self, tmp_path: Path) -> None:
        shutil.copy(FOLDER / "alerts.yml", tmp_path)
        shutil.copy(ROOT / "tests" / "observability" / "alerts.yml", tmp_path / "cases.yml")
        assert "SUCCESS" in promtool("test", "rules", tmp_path / "cases.yml")


def promtool(*arguments: str | Path) -> str:
    """Its output; it must find nothing wrong."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rules_have_names_of_their_own() -> None:
    names = Counter(rule.get("alert") or rule["record"] for rule in RULES)
    assert set(names.values()) == {1}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_reads_what_exists(path: Path) -> None:
    for panel in panels(path):
        for target in panel.get("targets", []):
            at_hand = check(plain(target["expr"]))
            legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert legend <= at_hand, panel["title"]
    for variable in json.loads(path.read_text())["templating"]["list"]:
        name, label = re.fullmatch(
            r"label_values\(([\w:]+), (\w+)\)", variable["definition"]
        ).groups()
        assert label in SERIES[name]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_have_ids_of_their_own_and_do_not_overlap(path: Path) -> None:
    found = panels(path)
    assert len({panel["id"] for panel in found}) == len(found)
    squares = Counter(
        (place["x"] + right, place["y"] + down)
        for place in (panel["gridPos"] for panel in found)
        for right in range(place["w"])
        for down in range(place["h"])
    )
    assert set(squares.values()) == {1}
    assert max(x for x, _ in squares) < 24


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_ask_the_provisioned_source(path: Path) -> None:
    (source,) = (
        source
        for file in FOLDER.glob("grafana/provisioning/datasources/*.yml")
        for source in yaml.safe_load(file.read_text())["datasources"]
    )
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]
    for panel in panels(path):
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == source["uid"]


def test_every_metric_is_on_a_dashboard() -> None:
    shown = {
        name
        for path in DASHBOARDS
        for panel in panels(path)
        for target in panel.get("targets", [])
        for name, _ in selectors(plain(target["expr"]))
    }
    shown |= {
        name for rule in RULES if rule.get("record") in shown for name, _ in selectors(rule["expr"])
    }
    for module in metric_modules():
        for value in vars(module).values():
            if isinstance(value, MetricWrapperBase):
                family = value.describe()[0]
                names = {family.name + suffix for suffix in SUFFIXES[family.type]}
                assert names & shown, family.name


def test_the_page_names_every_metric_and_every_alert_as_they_are() -> None:
    page = PAGE.read_text()
    assert written(page) == page, "python -m tests.observability_tables writes it anew"
    listed = {name for part in PARTS for name in metrics(f"services.{part}.metrics")}
    assert len(listed) > 50
    for metric in listed:
        assert metric.describe()[0].name in page


def test_what_vllms_dashboards_read_is_there() -> None:
    for name, labels in OF_VLLM.items():
        assert labels <= SERIES[name], name


def test_names_of_vllm_are_used_for_nothing_else() -> None:
    """Without the prefix, a name of its would be found on no dashboard of its."""
    ours = {name for name in SERIES if not name.startswith("vllm:")}
    assert not {name.removeprefix("vllm:") for name in OF_VLLM} & ours


def test_every_service_is_scraped_and_nothing_else() -> None:
    (job,) = PROMETHEUS["scrape_configs"]
    (lookup,) = job["dns_sd_configs"]
    ours = {name for name, service in SERVICES.items() if "build" in service}
    assert set(lookup["names"]) == ours
    assert (lookup["type"], lookup["port"]) == ("A", 9100)
    assert "QUORUM_MONITOR_PORT=9100" in (ROOT / "deploy" / "Dockerfile").read_text()
    for name in ours:
        assert "backend" in SERVICES[name]["networks"]


def test_every_yaml_file_of_the_deployment_parses_and_what_is_mounted_exists() -> None:
    files = [*(ROOT / "deploy").rglob("*.yml"), ROOT / "docker-compose.yml"]
    assert len(files) > 4
    for file in files:
        assert yaml.safe_load(file.read_text()), file
    for service in STACK["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), source
                assert volume.endswith(":ro")
            else:
                assert source in STACK["volumes"]


@pytest.mark.parametrize("name", STACK["services"])
def test_its_containers_have_no_right_that_they_do_not_need(name: str) -> None:
    service = STACK["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"].split(":")[0] not in ("root", "0")
    if name != "grafana-password":
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
        assert service["healthcheck"]["test"]
        assert {"memory", "pids"} <= set(service["deploy"]["resources"]["limits"])


def test_only_this_machine_reaches_grafana_and_grafana_not_the_backend() -> None:
    services = STACK["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["grafana"]
    assert all(port.startswith("127.0.0.1:") for port in services["grafana"]["ports"])
    assert "backend" not in services["grafana"]["networks"]
    assert "secrets:/run/quorum:ro" not in services["grafana"]["volumes"]
    assert STACK["networks"]["monitoring"] == {"internal": True}
