"""One more container like another: what stays, and what compose would have named anew."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from deploy.autoscaler.replica import (
    address_on,
    cpu_limit,
    number_of,
    one_more_like,
    stop_grace_s,
)

ID = "a4f64909a6b5a8e90b54fbedd70e00b183477c9d27c422dbaf53bb071d2b031d"
IMAGE = "sha256:83f169c23f4280feaba05373f8b9df067641e7b8b7d9ec2ae1f96d6b88a0c35b"


def network(address: str) -> dict[str, Any]:
    return {
        "IPAMConfig": None,
        "Aliases": ["quorum-gateway-1", "gateway", "a4f64909a6b5"],
        "NetworkID": "7409b4bad11a",
        "IPAddress": address,
        "MacAddress": "02:42:ac:1d:00:06",
    }


# As an engine of version 20.10 shows one that compose made, less what plays no part here.
GATEWAY: dict[str, Any] = {
    "Id": ID,
    "Name": "/quorum-gateway-1",
    "Image": IMAGE,
    "Config": {
        "Hostname": "a4f64909a6b5",
        "User": "10001:10001",
        "Env": ["GATEWAY_HOST=0.0.0.0", "SERVICE=gateway"],
        "ExposedPorts": {"8080/tcp": {}},
        "Image": "quorum-gateway:0.1.0",
        "Labels": {
            "com.docker.compose.config-hash": "8c41998a988c79aab1930c3ffeb6157d",
            "com.docker.compose.container-number": "1",
            "com.docker.compose.image": IMAGE,
            "com.docker.compose.oneoff": "False",
            "com.docker.compose.project": "quorum",
            "com.docker.compose.replace": "a0b1c2d3",
            "com.docker.compose.service": "gateway",
        },
        "StopTimeout": 45,
    },
    "HostConfig": {
        "Binds": ["/srv/models:/app/models:ro"],
        "NetworkMode": "quorum_backend",
        "PortBindings": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080-8089"}]},
        "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0},
        "CapDrop": ["ALL"],
        "ReadonlyRootfs": True,
        "NanoCpus": 1500000000,
        "Mounts": [{"Type": "volume", "Source": "quorum_secrets", "Target": "/run/quorum"}],
    },
    "NetworkSettings": {
        "Networks": {
            "quorum_frontend": network("172.30.0.2"),
            "quorum_backend": network("172.29.0.6"),
        }
    },
}


def test_it_is_named_and_numbered_as_compose_would() -> None:
    replica = one_more_like(GATEWAY, 3)
    assert replica.name == "quorum-gateway-3"
    labels = replica.body["Labels"]
    assert labels["com.docker.compose.container-number"] == "3"
    assert "com.docker.compose.replace" not in labels
    same = {"com.docker.compose.config-hash", "com.docker.compose.image"}
    assert {name: labels[name] for name in same} == {
        name: GATEWAY["Config"]["Labels"][name] for name in same
    }


def test_rights_and_settings_are_those_of_the_template() -> None:
    replica = one_more_like(GATEWAY, 3)
    assert replica.body["HostConfig"] == GATEWAY["HostConfig"]
    assert replica.body["User"] == "10001:10001"
    assert replica.body["Env"] == GATEWAY["Config"]["Env"]
    assert replica.body["StopTimeout"] == 45


def test_it_runs_the_very_image_even_if_the_tag_has_moved_on() -> None:
    assert one_more_like(GATEWAY, 3).body["Image"] == IMAGE


def test_it_joins_the_same_networks_by_its_own_names() -> None:
    replica = one_more_like(GATEWAY, 3)
    assert replica.body["NetworkingConfig"] == {
        "EndpointsConfig": {"quorum_backend": {"Aliases": ["quorum-gateway-3", "gateway"]}}
    }
    assert replica.more_networks == {"quorum_frontend": ["quorum-gateway-3", "gateway"]}


def test_a_hostname_is_kept_only_where_it_was_chosen() -> None:
    assert "Hostname" not in one_more_like(GATEWAY, 3).body
    chosen = deepcopy(GATEWAY)
    chosen["Config"]["Hostname"] = "door"
    assert one_more_like(chosen, 3).body["Hostname"] == "door"


def test_the_template_stays_as_it_is() -> None:
    before = deepcopy(GATEWAY)
    replica = one_more_like(GATEWAY, 3)
    replica.body["HostConfig"]["CapDrop"].append("x")
    replica.body["Env"].append("x")
    assert before == GATEWAY


def test_what_is_read_of_a_container() -> None:
    assert number_of(GATEWAY["Config"]["Labels"]) == 1
    assert number_of({}) == 0
    assert stop_grace_s(GATEWAY) == 45
    assert cpu_limit(GATEWAY) == 1.5
    assert cpu_limit({"HostConfig": {"NanoCpus": 0}}) is None
    assert address_on(GATEWAY, "quorum_backend") == "172.29.0.6"
    assert address_on(GATEWAY, "quorum_other") is None
