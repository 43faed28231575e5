"""The compose stack under test: brought up by compose, broken through the Docker SDK."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import docker
from docker.models.containers import Container
from docker.models.networks import Network

ROOT = Path(__file__).parent.parent.parent
FILES = (ROOT / "docker-compose.yml", ROOT / "tests" / "e2e" / "compose.yml")
PORTS = os.environ.get("E2E_PORTS", "127.0.0.1:18080-18099")
# Whoever may use Docker's socket on this machine, so may the autoscaler under test.
SOCKET = Path("/var/run/docker.sock")
KEYS = "{quorum}"
PEACE = {"gateway": 2, "verifier": 2, "voter": 2, "recommender": 2}


def environment() -> dict[str, str]:
    """What the compose files need to be told here."""
    return {"PUBLISH": PORTS, "DOCKER_GID": str(SOCKET.stat().st_gid)}


class Stack:
    """One project of its own; `scale` is the number of replicas it has in peace, `overlays` are
    compose files beside the usual ones."""

    def __init__(self, scale: Mapping[str, int], *overlays: Path) -> None:
        self.files = (*FILES, *overlays)
        self.project = "-".join(["quorum-e2e", str(os.getpid()), *(o.stem for o in overlays)])
        self.scale = dict(scale)
        self.client = docker.from_env()

    def compose(self, *arguments: str, **more: str) -> str:
        """Runs docker compose on the project, with `more` in its environment; its output, or
        RuntimeError with it."""
        files = [part for file in self.files for part in ("-f", str(file))]
        command = [
            "docker",
            "compose",
            "--progress",
            "plain",
            "-p",
            self.project,
            *files,
            *arguments,
        ]
        ran = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **environment(), **more},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if ran.returncode:
            raise RuntimeError(f"{' '.join(arguments)}:\n{ran.stdout}\n{ran.stderr}")
        return ran.stdout

    def build(self) -> None:
        self.compose("--profile", "autoscaler", "build", "--quiet")
        self.compose("build", "--quiet", "verifier-ahead")  # from the image made just now

    def up(self, *services: str, scale: Mapping[str, int] | None = None) -> None:
        """Brings services, or all, to the scale given or that of peace, and waits for health."""
        wanted = {**self.scale, **(scale or {})}
        named = [part for name, count in wanted.items() if not services or name in services
                 for part in ("--scale", f"{name}={count}")]  # fmt: skip
        self.compose("up", "-d", "--wait", "--wait-timeout", "120", *named, *services)

    def scale_to(self, counts: Mapping[str, int]) -> None:
        """Adds or removes replicas; what runs stays as it is. Does not wait for health."""
        named = [part for name, count in counts.items() for part in ("--scale", f"{name}={count}")]
        self.compose("up", "-d", "--no-deps", "--no-recreate", *named, *counts)

    def exit_codes(self, since: float) -> dict[str, int]:
        """Of the project's containers that ended since then, by name."""
        label = f"com.docker.compose.project={self.project}"
        ended = self.client.events(
            since=int(since), until=int(time.time()) + 1, decode=True,
            filters={"event": "die", "label": label},
        )  # fmt: skip
        attributes = [event["Actor"]["Attributes"] for event in ended]
        return {found["name"]: int(found["exitCode"]) for found in attributes}

    @contextmanager
    def recorded(self, service: str) -> Iterator[list[tuple[str, str]]]:
        """Each start and end of the service's containers while the body runs, with the exit code.
        Asked for later, the engine has forgotten them: it keeps few events, and every health check
        makes some."""
        found: list[tuple[str, str]] = []
        labels = [f"com.docker.compose.project={self.project}",
                  f"com.docker.compose.service={service}"]  # fmt: skip
        filters = {"type": "container", "event": ["start", "die"], "label": labels}
        stream = self.client.events(decode=True, filters=filters)

        def read() -> None:
            for event in stream:
                found.append((event["Action"], event["Actor"]["Attributes"].get("exitCode", "")))

        reader = Thread(target=read)
        reader.start()
        try:
            yield found
        finally:
            stream.close()
            reader.join()

    def down(self) -> None:
        self.compose("--profile", "*", "down", "-v", "--remove-orphans", "--timeout", "5")
        self.client.close()

    def containers(self, service: str, *, running_only: bool = False) -> list[Container]:
        """A service's containers by number."""
        found = self.client.containers.list(
            all=not running_only,
            filters={
                "label": [
                    f"com.docker.compose.project={self.project}",
                    f"com.docker.compose.service={service}",
                ]
            },
        )
        return sorted(found, key=lambda c: int(c.labels["com.docker.compose.container-number"]))

    def network(self) -> Network:
        """The one that services and Redis share."""
        return self.client.networks.get(f"{self.project}_backend")

    def gateways(self) -> list[str]:
        """The base URLs of those that run."""
        urls = []
        for container in self.containers("gateway", running_only=True):
            for published in container.ports.get("8080/tcp") or ():
                urls.append(f"http://{published['HostIp']}:{published['HostPort']}")
        return urls

    def redis(self, *command: str) -> str:
        """One command to the server, by its own client."""
        quoted = " ".join(f"'{part}'" for part in command)
        return self.run(
            "redis", f"REDISCLI_AUTH=$(cat /run/quorum/redis-password) redis-cli --raw {quoted}"
        )

    def run(self, service: str, script: str) -> str:
        """A shell script in the service's first container; its output."""
        code, output = self.containers(service)[0].exec_run(["sh", "-c", script])
        text: str = output.decode()
        if code:
            raise RuntimeError(f"{service}: {script}: {text}")
        return text

    def leftovers(self) -> dict[str, int]:
        """What a quiet system may not hold: messages of topics by stream, and dead letters."""
        found = {}
        for kind in ("topic", "dead"):
            for key in self.redis("KEYS", f"{KEYS}:{kind}:*").split():
                if length := int(self.redis("XLEN", key)):
                    found[key] = length
        return found

    def longest_inbox(self) -> int:
        keys = self.redis("KEYS", f"{KEYS}:inbox:*").split()
        return max((int(self.redis("XLEN", key)) for key in keys), default=0)
