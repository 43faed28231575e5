"""A served system, scraped by a real Prometheus with our rules: each panel's query has an answer.

The binaries are Debian's package `prometheus`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.redis_server import free_port
from tests.test_docs import ROOT
from tests.test_observability import DASHBOARDS, OF_VLLM, RULES, panels, selectors

pytestmark = [
    pytest.mark.reference,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's package prometheus"),
]
PATIENCE_S = 90.0
FOLDER = ROOT / "deploy" / "observability"
COMPLETION = {"prompt": "def read_lines(path):\n", "max_tokens": 48, "temperature": 0}
RECOMMENDATION = {"context": {"package": ["asyncio"]}, "k": 3}
TARGETS = [
    (panel["title"], target["expr"])
    for path in DASHBOARDS
    for panel in panels(path)
    for target in panel.get("targets", [])
]
EVENTUAL = ("trace_spans", "bus_", "late_", "bad_", "refused_", "stale_", "requests_republished")
EVENTUAL += ("replies_unclaimed", "request_failure", "admission_rejections", "requests_cancelled")
EVENTUAL += ("drafter_ahead", "quorum:requests_failed", "quorum:drafts_timed_out", "ALERTS")
"""Begins the names of what a system that is well need not have any of."""


@dataclass
class Prometheus:
    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer, which must come without an error or a warning."""
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                body = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error
        assert body["status"] == "success"
        assert not body.get("warnings"), body
        return body["data"]

    def query(self, expression: str) -> list[Any]:
        return self.ask("query", query=expression)["result"]


def post(url: str, body: object) -> dict[str, Any]:
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as answer:
        return json.load(answer)


def until(is_so: Callable[[], bool], log: Path) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            if is_so():
                return
        except OSError:
            pass  # it does not listen yet
        assert time.monotonic() < give_up, log.read_text()[-4000:]
        time.sleep(0.1)  # neither process says when it is ready


def is_ready(prometheus_url: str) -> bool:
    """Whether it answers queries; it listens before it has read what it stored."""
    with urllib.request.urlopen(f"{prometheus_url}/-/ready", timeout=10) as answer:
        return bool(answer.status == 200)


@dataclass
class Served:
    """All services in one process: where its gateway and its monitor listen."""

    url: str
    monitor: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    port, monitor_port = free_port(), free_port()
    log = tmp_path_factory.mktemp("quorum") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "services"],
            cwd=ROOT,
            env={
                **os.environ,
                "GATEWAY_PORT": str(port),
                "QUORUM_MONITOR_PORT": str(monitor_port),
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: "Quorum is ready" in log.read_text(), log)
        yield Served(f"http://127.0.0.1:{port}", f"127.0.0.1:{monitor_port}")
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def prometheus(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Our rules and our settings, but for where it looks and how often; all is used meanwhile."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    settings = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    settings["global"] = dict.fromkeys(settings["global"], "1s")
    settings["rule_files"] = [str(FOLDER / "alerts.yml")]
    target = {"targets": [served.monitor], "labels": {"service": "gateway"}}
    settings["scrape_configs"] = [{"job_name": "quorum", "static_configs": [target]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        scraped = Prometheus(f"http://127.0.0.1:{port}")
        until(lambda: is_ready(scraped.url), log)
        until(lambda: bool(scraped.query("up == 1")), log)
        for _ in range(3):
            post(f"{served.url}/v1/completions", COMPLETION)
            post(f"{served.url}/v1/recommendations", RECOMMENDATION)
        done = "sum(vllm:request_success_total) == 3"
        until(lambda: bool(scraped.query(done)), log)
        until(lambda: bool(scraped.query("quorum:e2e_request_latency_seconds:p99")), log)
        yield scraped
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def plain(expression: str) -> str:
    """With Grafana's variables filled in, and ranges long enough for all that has been scraped."""
    filled = re.sub(r"\$__(rate_interval|range|interval)\b", "5m", expression)
    return re.sub(r"\$\w+", ".*", filled)


@pytest.mark.parametrize(("title", "expression"), TARGETS, ids=lambda text: text[:60])
def test_a_panels_query_is_answered(prometheus: Prometheus, title: str, expression: str) -> None:
    filled = plain(expression)
    assert prometheus.query(filled) is not None
    for name, _ in selectors(filled):
        if not name.startswith(EVENTUAL):
            assert prometheus.query(name), f"{title}: {name} was not scraped"


def test_what_vllms_dashboards_read_is_scraped(prometheus: Prometheus) -> None:
    (model,) = {
        series["metric"]["model_name"] for series in prometheus.query("vllm:num_requests_running")
    }
    for name, labels in OF_VLLM.items():
        found = prometheus.query(f'{name}{{model_name="{model}"}}')
        assert found, name
        assert labels <= set(found[0]["metric"])


def test_rules_are_judged_without_an_error_and_nothing_is_critical(prometheus: Prometheus) -> None:
    groups = prometheus.ask("rules")["groups"]
    judged = [rule for group in groups for rule in group["rules"]]
    assert len(judged) == len(RULES)
    assert {rule["health"] for rule in judged} == {"ok"}
    firing = prometheus.query('ALERTS{alertstate="firing", severity="critical"}')
    assert firing == []
