"""The swarm stack under test: deployed from deploy/swarm.yml on this machine as a swarm of one."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import docker
from docker.models.containers import Container
from docker.models.services import Service

from tests.e2e.stack import ROOT

PORT = 18300
FILE = ROOT / "deploy" / "swarm.yml"
REDIS_LABEL = "quorum.redis"
GOING_S = 60.0


def _until(holds: Callable[[], bool]) -> None:
    """Asks again and again, for `GOING_S` at most: tasks end after the command that ends them."""
    give_up = time.monotonic() + GOING_S
    while not holds() and time.monotonic() < give_up:
        time.sleep(0.25)


class Swarm:
    """A stack of its own name. Leaves the machine as it was: a swarm that it did not find, ends."""

    def __init__(self) -> None:
        self.name = f"quorum-swarm-{os.getpid()}"
        self.client = docker.from_env()
        self.has_mesh = False
        self._made_swarm = False
        self._labelled = False

    def up(self) -> None:
        """Deploys with images built here. Does not wait for health."""
        self.prepare()
        self._run(str(ROOT / "deploy" / "swarm-secrets.sh"), self.name)
        self._run(
            "docker", "stack", "deploy", "--resolve-image", "never", "-c", str(FILE), self.name,
            MODELS=str(ROOT / "models"), **self.settings(),
        )  # fmt: skip

    def prepare(self) -> None:
        """A swarm, and images for it."""
        self._join()
        self._run("docker", "compose", "build", "--quiet")
        image = f"{os.environ.get('IMAGE_PREFIX', 'quorum')}-voter:0.1.0"
        # What the routing mesh is made of; not every kernel has it.
        self.has_mesh = "ip_vs" in self.client.containers.run(
            image, ["-c", "ls /proc/net"], entrypoint="sh", network_mode="host", remove=True
        ).decode()  # fmt: skip

    def settings(self) -> dict[str, str]:
        """What deploy/swarm.yml needs to be told here."""
        ports = {"PORT": str(PORT)} if self.has_mesh else {"PORT": "0", "PORT_MODE": "host"}
        return {"SECRETS": self.name, **ports}

    def down(self) -> None:
        try:
            _until(self._is_removed)
            for secret in self.client.secrets.list(filters={"name": self.name}):
                secret.remove()
            for volume in self.client.volumes.list(filters={"name": f"{self.name}_redis"}):
                volume.remove()
        finally:
            self._leave()
            self.client.close()

    def scale(self, counts: Mapping[str, int]) -> None:
        """Brings services to these numbers of replicas, and waits until they are there."""
        wanted = [f"{self.name}_{service}={count}" for service, count in counts.items()]
        self._run("docker", "service", "scale", "--detach=false", *wanted)

    def update(self, service: str) -> None:
        """A rolling update to what the service is already, until the old tasks have drained."""
        old = {container.id for container in self.containers(service)}
        self._run(
            "docker", "service", "update", "--force", "--detach=false", "--quiet",
            f"{self.name}_{service}",
        )  # fmt: skip
        _until(lambda: not old & {container.id for container in self.containers(service)})

    def kill(self, service: str) -> None:
        """Kills one task's container, and waits for a healthy one in its place."""
        with self.events(service, "health_status") as events:
            self.containers(service)[0].kill("SIGKILL")
            next(event for event in events if event["status"].endswith(": healthy"))

    @contextmanager
    def events(self, service: str, kind: str) -> Iterator[Iterator[dict[str, str]]]:
        """What happens to the service's containers from now on."""
        label = f"com.docker.swarm.service.name={self.name}_{service}"
        events = self.client.events(decode=True, filters={"event": kind, "label": label})
        try:
            yield events
        finally:
            events.close()

    def service(self, service: str) -> Service:
        return self.client.services.get(f"{self.name}_{service}")

    def containers(self, service: str) -> list[Container]:
        """Those of the service's tasks that run."""
        label = f"com.docker.swarm.service.name={self.name}_{service}"
        return list(self.client.containers.list(filters={"label": label}, ignore_removed=True))

    def exit_codes(self, service: str) -> list[int]:
        """Of the tasks that were told to end, and did."""
        tasks = self.service(service).tasks({"desired-state": "shutdown"})
        return [task["Status"]["ContainerStatus"]["ExitCode"] for task in tasks]

    def gateways(self) -> list[str]:
        """The mesh's URL, or where there is none that of each gateway."""
        if self.has_mesh:
            return [f"http://127.0.0.1:{PORT}"]
        found = [c.ports.get("8080/tcp") or [] for c in self.containers("gateway")]
        return [f"http://127.0.0.1:{ports[0]['HostPort']}" for ports in found if ports]

    def run(self, service: str, script: str) -> str:
        """A shell script in one of the service's containers; its output."""
        _, output = self.containers(service)[0].exec_run(["sh", "-c", script])
        return str(output.decode())

    def _join(self) -> None:
        state = self.client.info()["Swarm"]
        if state["LocalNodeState"] == "inactive":
            self.client.swarm.init(advertise_addr="127.0.0.1", listen_addr="127.0.0.1:2377")
            self._made_swarm = True
            state = self.client.info()["Swarm"]
        node = self.client.nodes.get(state["NodeID"])
        spec = node.attrs["Spec"]
        if REDIS_LABEL not in spec["Labels"]:
            node.update(spec | {"Labels": spec["Labels"] | {REDIS_LABEL: "true"}})
            self._labelled = True

    def _leave(self) -> None:
        if self._made_swarm:
            self.client.swarm.leave(force=True)
        elif self._labelled:
            node = self.client.nodes.get(self.client.info()["Swarm"]["NodeID"])
            spec = node.attrs["Spec"]
            labels = {name: v for name, v in spec["Labels"].items() if name != REDIS_LABEL}
            node.update(spec | {"Labels": labels})

    def _is_removed(self) -> bool:
        """Removes the stack: an error while a network's tasks drain, or it is going itself."""
        try:
            self._run("docker", "stack", "rm", self.name)
        except RuntimeError:
            return False
        label = f"com.docker.stack.namespace={self.name}"
        # What has ended is listed too: it still holds the volume.
        return not self.client.containers.list(all=True, filters={"label": label}, sparse=True)

    @staticmethod
    def _run(*command: str, **environment: str) -> None:
        ran = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **environment},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if ran.returncode:
            raise RuntimeError(f"{' '.join(command)}:\n{ran.stdout}\n{ran.stderr}")
