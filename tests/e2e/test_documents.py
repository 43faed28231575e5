"""The documents' commands that need Docker, block by block in their order, on a clone of the
repository: a project of its own, whose gateways have other ports."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from pathlib import Path

import pytest
import yaml

from tests.docs.blocks import DOCUMENTS, ROOT, Block, Command, blocks, commands, same_shape
from tests.docs.conftest import COMPILED, install
from tests.docs.rules import IN_CONTAINERS, rule_of
from tests.e2e.stack import Stack
from tests.e2e.swarm import Swarm

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PUBLISH = "127.0.0.1:18200-18219"
NEEDED = ("deploy", "models", "services", "shared")
BODY = json.dumps({"prompt": "import os\n", "max_tokens": 8, "temperature": 0}).encode()
PATIENCE_S = 90.0
ANSWER_S = 20.0
LOOK_EVERY_S = 0.25
THOROUGH = {
    "docker compose up -d --scale drafter-small=3": "starts nine containers, and replaces some",
    "docker compose build": "updates every service, one after the other",
    "docker compose -p quorum-next": "a second project beside the first",
    "docker compose -f docker-compose.yml -f deploy/drafters.yml": "starts all of it once more",
    "docker compose -f docker-compose.yml -f deploy/tracing.yml": "builds five images more",
    "docker compose --profile autoscaler": "settings in .env replace every container, and back",
    "docker compose up -d --no-recreate": "scales as docs/containers.md does",
}
"""Blocks with such a command, and what of them takes long."""


def found() -> Iterator[tuple[Block, list[Command]]]:
    """Blocks that need Docker and nothing else that is not here; each text once."""
    seen = set()
    for document in DOCUMENTS:
        for block in blocks(document):
            if block.language != "console":
                continue
            own = commands(block.text)
            reasons = {rule_of(command).reason for command in own} - {""}
            text = "\n".join(command.text for command in own)
            if reasons == {IN_CONTAINERS} and text not in seen:
                seen.add(text)
                yield block, own


FOUND = list(found())
OF_A_SWARM = [(block, own) for block, own in FOUND if any("docker stack" in c.text for c in own)]


def cases() -> Iterator[object]:
    for block, own in FOUND:
        if (block, own) not in OF_A_SWARM:
            is_long = any(c.text.startswith(long) for c in own for long in THOROUGH)
            marks = [pytest.mark.thorough] if is_long else []
            yield pytest.param(own, id=str(block), marks=marks)


class Clone(Stack):
    """A project as a reader has it."""

    def __init__(self, folder: Path) -> None:
        super().__init__({})
        self.project = f"quorum-docs-{os.getpid()}"
        self.folder = folder
        self.files = (folder / "docker-compose.yml", folder / "docker-compose.override.yml")
        self.environment = {
            **os.environ,
            "PATH": f"{install(folder)}:{os.environ['PATH']}",
            "COMPOSE_PROJECT_NAME": self.project,
            "PUBLISH": PUBLISH,
        }

    def perform(self, command: Command) -> None:
        """In a shell; what the document shows of its output comes, but for the numbers."""
        if command.text.startswith("docker compose") and re.search(r" up$", command.text):
            self._perform_until_interrupted(command.text)
            return
        done = self._start(command.text, subprocess.PIPE)
        output, _ = done.communicate(timeout=PATIENCE_S * 3)
        assert done.returncode == 0, output
        for line in command.output:
            assert any(same_shape(line, shown) for shown in output.splitlines()), (line, output)

    def answers(self) -> bool:
        """Whether every gateway does what it is there for; False if there is none."""
        urls = self.gateways()
        return bool(urls) and all(is_answered(url) for url in urls)

    def exit_codes_now(self) -> set[int]:
        """Of what has ended of the project."""
        label = f"com.docker.compose.project={self.project}"
        ended = self.client.containers.list(all=True, filters={"label": label, "status": "exited"})
        return {container.attrs["State"]["ExitCode"] for container in ended}

    def following(self) -> Clone:
        """The project that a document starts beside this one."""
        other = copy(self)
        other.project = f"{self.project}-next"
        return other

    def _start(self, text: str, output: int) -> subprocess.Popen[str]:
        text = text.replace("quorum-next", self.following().project)
        url = next(iter(self.gateways()), "http://127.0.0.1:9")
        return subprocess.Popen(
            ["bash", "-c", text],
            cwd=self.folder,
            env={**self.environment, "QUORUM_URL": url},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output == subprocess.PIPE else output,
            text=True,
            start_new_session=True,
        )

    def _perform_until_interrupted(self, text: str) -> None:
        """It answers until Ctrl-C, and then every container ends well. The client's own code says
        nothing: 130, or 2 where compose (2.26) closes a channel twice at its end."""
        process = self._start(text, subprocess.DEVNULL)
        try:
            until(self.answers)
            # To the client alone, which hands it on where there is no terminal; twice is a kill.
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE_S)
        finally:
            process.kill()
            process.wait()
        assert not self.gateways()
        assert self.exit_codes_now() == {0}


def is_answered(url: str) -> bool:
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{url}/v1/completions", BODY, headers)
    try:
        with urllib.request.urlopen(asked, timeout=ANSWER_S) as answer:
            return bool(json.load(answer)["choices"])
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False


def until(holds: Callable[[], bool]) -> None:
    """Asks again and again: containers that start send no word."""
    give_up = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(LOOK_EVERY_S)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """With its images, and nothing that runs. Health is asked for more often than usual."""
    folder = tmp_path_factory.mktemp("clone")
    for name in NEEDED:
        shutil.copytree(ROOT / name, folder / name, ignore=COMPILED)
    for name in ("docker-compose.yml", ".dockerignore", ".env.example"):
        shutil.copy(ROOT / name, folder)
    services = yaml.safe_load((folder / "docker-compose.yml").read_text())["services"]
    often = {name: {"healthcheck": {"interval": "1s"}} for name in services if name != "password"}
    (folder / "docker-compose.override.yml").write_text(json.dumps({"services": often}))
    clone = Clone(folder)
    try:
        clone.compose("--profile", "*", "build", "--quiet")
        yield clone
    finally:
        clone.down()


@pytest.fixture
def ready(clone: Clone, request: pytest.FixtureRequest) -> Iterator[Clone]:
    """As it is when a block is read: it runs, unless the block starts it itself."""
    own: Sequence[Command] = request.node.callspec.params["own"]
    (clone.folder / ".env").unlink(missing_ok=True)
    if not own[0].text.endswith(" up"):
        clone.compose("up", "-d", "--remove-orphans", PUBLISH=PUBLISH)
        until(clone.answers)
    yield clone
    text = "\n".join(command.text for command in own)
    if "autoscaler" in text:
        clone.compose("rm", "--stop", "--force", "autoscaler")
    if "quorum-next" in text:
        clone.following().compose("down", "-v")


@pytest.mark.parametrize("own", list(cases()))
def test_blocks_do_what_the_documents_say(own: Sequence[Command], ready: Clone) -> None:
    for command in own:
        ready.perform(command)
    if any("quorum-next" in command.text for command in own):
        until(ready.following().answers)
    if own[-1].text.endswith(" down"):
        assert not ready.gateways()
    elif not own[-1].text.endswith(" up"):
        until(ready.answers)


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize("own", [pytest.param(own, id=str(block)) for block, own in OF_A_SWARM])
def test_a_swarm_is_made_as_the_documents_say(own: Sequence[Command]) -> None:
    swarm = Swarm()
    try:
        swarm.prepare()
        node = str(swarm.client.info()["Swarm"]["NodeID"])
        meanings = {
            "NODE": node,
            "registry.example.com/quorum": os.environ.get("IMAGE_PREFIX", "quorum"),
            "/srv/quorum/models": str(ROOT / "models"),
            "swarm-secrets.sh": f"swarm-secrets.sh {swarm.name}",
            "swarm.yml quorum": f"swarm.yml {swarm.name}",
            "quorum_": f"{swarm.name}_",
        }
        script = "\n".join(["set -ex", *(command.text for command in own)])
        for written, meaning in meanings.items():
            script = script.replace(written, meaning)
        done = subprocess.run(
            ["bash", "-c", script], cwd=ROOT, env={**os.environ, **swarm.settings()},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        until(lambda: all(is_answered(url) for url in swarm.gateways()))
        assert len(swarm.containers("verifier")) == 4
    finally:
        swarm.down()


def test_what_takes_long_is_there() -> None:
    assert len(FOUND) > 10
    texts = [command.text for _, own in FOUND for command in own]
    for long in THOROUGH:
        assert any(text.startswith(long) for text in texts), long
