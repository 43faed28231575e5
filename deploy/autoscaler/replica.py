"""A container's description, as Docker's API has it, turned into that of one more like it.

Labels, name and network aliases are those that docker compose would have given it, so that compose
counts it among the service's own. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
NUMBER = "com.docker.compose.container-number"
ONE_OFF = "com.docker.compose.oneoff"
REPLACES = "com.docker.compose.replace"

Inspected = Mapping[str, Any]
"""What `docker inspect` shows of a container."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A container to be made: its name, the body of the request that creates it, and the networks
    that it joins beside the first, with its names there."""

    name: str
    body: dict[str, Any]
    more_networks: dict[str, list[str]]


def number_of(labels: Mapping[str, str]) -> int:
    """The replica's number within its service; 0 for a container that compose did not number."""
    return int(labels.get(NUMBER, "0"))


def one_more_like(template: Inspected, number: int) -> Replica:
    """The replica of that number, from one that runs. The image is the very one that it runs, even
    if its tag means another by now: scaling updates nothing."""
    old_name = template["Name"].lstrip("/")
    labels = dict(template["Config"]["Labels"])
    name = f"{labels[PROJECT]}-{labels[SERVICE]}-{number}"
    labels[NUMBER] = str(number)
    labels.pop(REPLACES, None)
    body = deepcopy(dict(template["Config"]))
    body |= {"Image": template["Image"], "Labels": labels}
    body.pop("MacAddress", None)
    if template["Id"].startswith(body.get("Hostname", "")):
        body.pop("Hostname", None)  # Docker's own choice, the container's id
    networks = {
        network: _aliases(joined.get("Aliases") or (), template["Id"], old_name, name)
        for network, joined in template["NetworkSettings"]["Networks"].items()
    }
    host = deepcopy(template["HostConfig"])
    # Before version 1.44 of the API a container is created with one network, and joins others.
    first = host["NetworkMode"] if host["NetworkMode"] in networks else next(iter(networks), None)
    body |= {"HostConfig": host}
    if first is not None:
        body["NetworkingConfig"] = {"EndpointsConfig": {first: {"Aliases": networks.pop(first)}}}
    return Replica(name, body, networks)


def _aliases(aliases: Iterable[str], id_: str, old_name: str, name: str) -> list[str]:
    """The template's aliases less its id, which Docker adds by itself, and with the new name."""
    kept = (alias for alias in aliases if not id_.startswith(alias))
    return [name if alias == old_name else alias for alias in kept]


def stop_grace_s(inspected: Inspected) -> int:
    """How long the container may take to end after SIGTERM."""
    return int(inspected["Config"].get("StopTimeout") or 10)


def address_on(inspected: Inspected, network: str) -> str | None:
    """The container's address on a network, if it is there."""
    joined = inspected["NetworkSettings"]["Networks"].get(network) or {}
    return joined.get("IPAddress") or None


def cpu_limit(inspected: Inspected) -> float | None:
    """The CPUs that the container may use, if that is limited."""
    return inspected["HostConfig"].get("NanoCpus", 0) / 1e9 or None
