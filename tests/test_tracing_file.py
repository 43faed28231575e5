"""deploy/tracing.yml beside docker-compose.yml: who is traced, and what else that changes."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.test_deploy import REQUIREMENTS, SERVICES, packages
from tests.test_docs import ROOT

TRACING: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "tracing.yml").read_text())
TRACED = sorted(set(TRACING["services"]) - {"password"})
UNTRACED = {"redis", "password", "autoscaler"}
FILES = ("docker-compose.yml", "deploy/gpu.yml", "deploy/tracing.yml")


def has_compose() -> bool:
    """Whether the client is there; it needs no engine to read files."""
    docker = shutil.which("docker")
    if docker is None:
        return False
    return not subprocess.run([docker, "compose", "version"], capture_output=True).returncode


def test_everybody_who_works_on_requests_is_traced() -> None:
    assert set(TRACED) == SERVICES.keys() - UNTRACED


@pytest.mark.parametrize("name", TRACED)
def test_a_traced_service_is_of_an_image_that_holds_opentelemetry(name: str) -> None:
    service, plain = TRACING["services"][name], SERVICES[name]
    assert service["build"] == {"args": {"EXTRA": "otel"}}
    assert service["image"].split(":$")[0] == plain["image"].split(":$")[0] + "-traced"
    assert set(service) == {"image", "build", "environment", "networks", "extra_hosts"}
    assert set(service["networks"]) == {"backend", "traces"}


def test_the_extra_holds_what_sends_traces_of_the_pinned_versions() -> None:
    installed = packages(REQUIREMENTS["otel"].read_text())
    assert {"opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"} <= set(installed)
    # It is installed into the same environment as what a service needs.
    for image, file in REQUIREMENTS.items():
        own = packages(file.read_text())
        assert {n: v for n, v in own.items() if installed.get(n, v) != v} == {}, image


def test_the_password_is_made_by_an_image_that_is_built_here() -> None:
    services = TRACING["services"]
    assert services["password"] == {"image": services["voter"]["image"]}


@pytest.mark.skipif(not has_compose(), reason="no docker compose here")
def test_compose_takes_it_with_the_other_files() -> None:
    files = [part for file in FILES for part in ("-f", file)]
    ran = subprocess.run(
        ["docker", "compose", *files, "config", "--format", "json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    services = json.loads(ran.stdout)["services"]
    for name in TRACED:
        service = services[name]
        assert service["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"].endswith(":4318")
        assert service["environment"]["BUS_URL"].startswith("redis://")
        assert set(service["networks"]) == {*SERVICES[name]["networks"], "traces"}
        assert service["read_only"] is True
        assert service["build"]["args"]["EXTRA"] == "otel"
    assert services["verifier"]["build"]["args"]["REQUIREMENTS"] == "verifier-gpu"
    assert services["verifier"]["environment"]["VERIFIER_DEVICE"] == "cuda"
