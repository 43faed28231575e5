"""deploy/swarm.yml deploys what docker-compose.yml does, with no more rights."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from shared.config import ProcessConfig, load
from tests import test_deploy as compose
from tests.test_docs import ROOT

TEXT = (ROOT / "deploy" / "swarm.yml").read_text()
STACK: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
NOT_OF_COMPOSE = {
    *("ENV_FILE", "PORT", "PORT_MODE", "SECRETS"),
    *(f"REPLICAS_{name}" for name in ("GATEWAY", "VERIFIER", "VOTER", "DRAFTER", "RECOMMENDER")),
}


def test_it_has_the_services_and_settings_of_compose() -> None:
    # The autoscaler is for compose: a swarm scales by its own commands.
    assert set(SERVICES) == set(compose.SERVICES) - {"password", "autoscaler"}
    for name, service in SERVICES.items():
        there = compose.SERVICES[name]
        assert service["image"] == there["image"]
        assert service["user"] == there["user"]
        theirs = {**there.get("environment", {})}
        ours = {**service.get("environment", {})}
        assert ours.pop("BUS_PASSWORD_FILE", None) in (None, "/run/secrets/redis-password")
        theirs.pop("BUS_PASSWORD_FILE", None)
        assert ours == theirs
        assert service["deploy"]["resources"] == there["deploy"]["resources"]


def test_variables_are_those_of_compose_with_its_defaults() -> None:
    pattern = r"\$\{([A-Z_]+):?-([^}]*)\}"
    of_compose = dict(re.findall(pattern, compose.COMPOSE_TEXT))
    ours = dict(re.findall(pattern, TEXT))
    assert set(ours) - set(of_compose) == NOT_OF_COMPOSE
    shared = set(ours) & set(of_compose)
    assert {name: ours[name] for name in shared} == {name: of_compose[name] for name in shared}
    assert re.findall(r"\$\{([A-Z_]+):\?", TEXT) == ["MODELS"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_task_has_no_right_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert set(service["secrets"]) <= {"redis-password", "redis-acl"}
    assert all(volume["read_only"] for volume in service["volumes"] if volume["type"] == "bind")
    # Swarm would ignore these without a word, or with one that nobody reads.
    assert not {"build", "depends_on", "restart", "security_opt", "tmpfs"} & set(service)


@pytest.mark.parametrize("name", SERVICES)
def test_a_task_is_replaced_when_the_next_is_healthy_and_has_time_to_drain(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"]
    update = service["deploy"]["update_config"]
    # Two servers must not write the same data.
    assert update["order"] == ("stop-first" if name == "redis" else "start-first")
    assert update["failure_action"] == "rollback"
    assert update.get("parallelism", 1) == 1
    assert service["deploy"]["restart_policy"] == {"condition": "any", "delay": "2s"}
    grace = re.search(r"(\d+)s", service["stop_grace_period"])
    assert grace is not None
    if name != "redis":
        assert int(grace[1]) > load(ProcessConfig, {}).drain_timeout_s


def test_only_the_gateway_can_be_reached_from_outside() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["gateway"]
    assert STACK["networks"]["backend"]["internal"] is True
    assert [n for n, s in SERVICES.items() if "frontend" in s["networks"]] == ["gateway"]
