"""What is deployed is what was decided: pins, settings, and no more rights than needed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.__main__ import PARTS
from services.gateway.config import GatewayConfig
from shared import served
from shared.config import load
from tests.settings_table import OTHER_IN_CONTAINERS, SET_BY_COMPOSE
from tests.test_docs import CONFIGS, ROOT

COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OVERRIDES = [
    ROOT / "deploy" / name
    for name in ("drafters.yml", "gpu.yml", "observability.yml", "tracing.yml")
]
GPU: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "gpu.yml").read_text())
REQUIREMENTS = {path.stem: path for path in (ROOT / "deploy" / "requirements").glob("*.txt")}
IMAGES = (*PARTS, "autoscaler")


def example() -> dict[str, str]:
    """.env.example with every line switched on."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    pairs = (re.fullmatch(r"# ([A-Z_]+)=(.*?)(?:   # .*)?", line) for line in lines)
    return {pair[1]: pair[2] for pair in pairs if pair}


def test_the_example_lists_every_setting_with_its_default() -> None:
    wanted = {
        name: OTHER_IN_CONTAINERS.get(name, str(value))
        for cls in CONFIGS
        for name, value in load(cls, {}).effective().items()
        if name not in SET_BY_COMPOSE
    }
    texts = [COMPOSE_TEXT, *(path.read_text() for path in OVERRIDES)]
    found = [re.findall(r"\$\{([A-Z_]+):?-([^}]*)\}", text) for text in texts]
    of_compose = dict(pair for pairs in found for pair in pairs)
    assert example() == {**of_compose, **wanted}


def shipped_drafters() -> list[str]:
    """As DRAFTER_MODELS names them one by one."""
    folders = [
        str(target.folder.parent / name)
        for target in served.read(GatewayConfig().model)
        for name in target.drafters
    ]
    return sorted([*folders, "ngram", "suffix"])


def test_every_service_starts_with_all_of_the_example(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("x")
    environment = {**example(), "BUS_PASSWORD_FILE": str(password)}
    for cls in CONFIGS:
        load(cls, environment)


def packages(text: str) -> dict[str, str]:
    """Name to version of the lines that pin, names as PyPI compares them."""
    found = re.findall(r"^([\w.-]+)(?:\[\w+\])?==([\w.+]+)", text, re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


@pytest.mark.parametrize("image", sorted(REQUIREMENTS))
def test_images_install_the_pinned_versions_by_hash(image: str) -> None:
    text = REQUIREMENTS[image].read_text()
    pinned = packages((ROOT / "constraints.txt").read_text())
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert all("--hash=sha256:" in block for block in blocks)
    installed = packages(text)
    assert {"h11", "redis", "pydantic-settings"} <= set(installed)
    # What pip itself never installs on the Pythons tested has no pin there.
    assert {n: v for n, v in installed.items() if pinned.get(n, v) != v} == {}
    assert not {"torch", "transformers", "pytest"} & set(installed)


@pytest.mark.parametrize("service", ["voter", "gateway", "autoscaler"])
def test_who_computes_nothing_installs_nothing_to_compute_with(service: str) -> None:
    text = REQUIREMENTS[service].read_text()
    assert not {"numpy", "onnxruntime"} & set(packages(text))


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_right_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] not in ("root", "0", "0:0")
    assert "container_name" not in service
    assert "privileged" not in service


def test_dockers_socket_is_the_autoscalers_alone_and_only_where_asked_for() -> None:
    with_socket = [
        name for name, service in SERVICES.items() if "docker.sock" in str(service["volumes"])
    ]
    assert with_socket == ["autoscaler"]
    assert [n for n, s in SERVICES.items() if "profiles" in s] == ["autoscaler"]
    assert SERVICES["autoscaler"]["profiles"] == ["autoscaler"]
    assert SERVICES["autoscaler"]["networks"] == ["backend"]
    assert [n for n, s in SERVICES.items() if "group_add" in s] == ["autoscaler"]


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "password"])
def test_what_runs_for_long_is_watched_and_bounded(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"]
    assert service["restart"] == "unless-stopped"
    limits = service["deploy"]["resources"]["limits"]
    assert {"memory", "pids"} <= set(limits)
    models = [volume for volume in service["volumes"] if "models" in volume]
    assert all(volume.endswith(":ro") for volume in models)


def test_only_the_gateway_can_be_reached_from_outside() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["gateway"]
    assert COMPOSE["networks"]["backend"] == {"internal": True}
    outside = [n for n, s in SERVICES.items() if "frontend" in s.get("networks", [])]
    assert outside == ["gateway"]


def test_every_service_of_the_house_is_in_it() -> None:
    builds = [service["build"] for service in SERVICES.values() if "build" in service]
    assert {build["dockerfile"] for build in builds} == {"deploy/Dockerfile"}
    modules = {f"{b['args'].get('ROOM', 'services')}.{b['args']['SERVICE']}" for b in builds}
    assert modules == {"deploy.autoscaler", *(f"services.{part}" for part in PARTS)}
    assert set(REQUIREMENTS) == {*IMAGES, "verifier-gpu", "drafter-gpu", "otel"}


def test_draft_models_have_a_service_each() -> None:
    held = [
        model
        for service in SERVICES.values()
        for model in service.get("environment", {}).get("DRAFTER_MODELS", "").split(",")
        if model
    ]
    assert sorted(held) == shipped_drafters()


@pytest.mark.parametrize("name", GPU["services"])
def test_on_a_gpu_a_service_differs_in_what_a_gpu_needs(name: str) -> None:
    service, plain = GPU["services"][name], SERVICES[name]
    role = plain["build"]["args"]["SERVICE"]
    assert set(service) == {"image", "build", "environment", "deploy"}
    assert service["environment"] == {f"{role.upper()}_DEVICE": "cuda"}
    assert service["image"].split(":$")[0] == plain["image"].split(":$")[0] + "-gpu"
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    requirements = service["build"]["args"]["REQUIREMENTS"]
    assert requirements == f"{role}-gpu"
    installed = packages(REQUIREMENTS[requirements].read_text())
    assert "onnxruntime-gpu" in installed
    assert "onnxruntime" not in installed
    # CUDA's and cuDNN's libraries come with the packages, of the major versions that it loads.
    assert installed["nvidia-cuda-runtime"].startswith("13.")
    assert installed["nvidia-cudnn-cu13"].startswith("9.")


def test_what_computes_nothing_for_a_gpu_stays_off_it() -> None:
    assert set(GPU["services"]) == {"verifier", "drafter-small", "drafter-wide"}
