"""The containers of one docker compose project: seen, added and removed through Docker's API.

Every call blocks; the service makes them on threads.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from docker import APIClient
from docker.errors import APIError, DockerException, NotFound
from requests.exceptions import RequestException

from deploy.autoscaler.replica import (
    ONE_OFF,
    PROJECT,
    SERVICE,
    address_on,
    cpu_limit,
    number_of,
    one_more_like,
    stop_grace_s,
)
from shared.errors import ConfigError, QuorumError

logger = logging.getLogger(__name__)

NETWORK = "backend"
"""The network of docker-compose.yml on which every service serves its metrics."""
_GONE = ("created", "removing", "exited", "dead")


class FleetError(QuorumError):
    """Docker could not be reached, or refused."""

    code = "docker_unavailable"


@dataclass(frozen=True, slots=True)
class Container:
    """A replica that runs, starts again or is paused."""

    id: str
    name: str
    number: int
    address: str | None
    cpus: float | None
    stop_grace_s: int


class Fleet:
    """One project's containers. `connect` comes first."""

    def __init__(self, url: str, project: str) -> None:
        self._url = url
        self._project = project
        self._api: APIClient

    def connect(self) -> None:
        """Agrees with the engine on a version of the API. Raises ConfigError."""
        try:
            self._api = APIClient(base_url=self._url, version="auto")
        except (DockerException, RequestException) as error:
            raise ConfigError(f"AUTOSCALER_DOCKER_URL={self._url}: {error}") from error

    def close(self) -> None:
        self._api.close()

    def containers(self, services: Collection[str]) -> dict[str, list[Container]]:
        """Those that are up, by service and number."""
        found: dict[str, list[Container]] = {service: [] for service in services}
        with _errors_as_ours():
            for listed in self._listed():
                service = listed["Labels"].get(SERVICE)
                if service in found and listed["State"] not in _GONE:
                    found[service] += self._inspected(listed["Id"])
        return {s: sorted(each, key=lambda c: c.number) for s, each in found.items()}

    def add(self, service: str, template: Container) -> str:
        """Starts one more container like the template; returns its name."""
        with _errors_as_ours():
            inspected = self._api.inspect_container(template.id)
            taken = [
                number_of(listed["Labels"])
                for listed in self._listed()
                if listed["Labels"].get(SERVICE) == service
            ]
            replica = one_more_like(inspected, max(taken) + 1)
            created = self._api.create_container_from_config(replica.body, replica.name)["Id"]
            try:
                for network, aliases in replica.more_networks.items():
                    self._api.connect_container_to_network(created, network, aliases=aliases)
                self._api.start(created)
            except APIError:
                self._api.remove_container(created, force=True)
                raise
        return replica.name

    def remove(self, container: Container) -> None:
        """Ends the container as docker compose would, SIGTERM first, and removes it."""
        with _errors_as_ours():
            try:
                self._api.stop(container.id, timeout=container.stop_grace_s)
                self._api.remove_container(container.id)
            except NotFound:
                logger.info("%s is gone already", container.name)

    def _listed(self) -> list[Mapping[str, Any]]:
        """All of the project, whatever state they are in, less those of `docker compose run`."""
        labels = [f"{PROJECT}={self._project}", f"{ONE_OFF}=False"]
        listed: list[Mapping[str, Any]] = self._api.containers(all=True, filters={"label": labels})
        return listed

    def _inspected(self, id_: str) -> list[Container]:
        try:
            seen = self._api.inspect_container(id_)
        except NotFound:  # removed since it was listed
            return []
        return [
            Container(
                id_,
                seen["Name"].lstrip("/"),
                number_of(seen["Config"]["Labels"]),
                address_on(seen, f"{self._project}_{NETWORK}"),
                cpu_limit(seen),
                stop_grace_s(seen),
            )
        ]


@contextmanager
def _errors_as_ours() -> Iterator[None]:
    try:
        yield
    except (DockerException, RequestException) as error:
        raise FleetError(f"Docker: {error}") from error
