"""The first minute of a user: `python -m services` with the shipped models, and what it prints."""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.redis_server import free_port

ROOT = Path(__file__).parent.parent
PATIENCE_S = 90.0


@dataclass
class Served:
    """A running system, and the curl commands that it printed."""

    process: subprocess.Popen[str]
    greeting: str
    seconds_to_ready: float

    @property
    def calls(self) -> list[tuple[str, str]]:
        """URL and body of each printed command."""
        return re.findall(r"curl -sN? (\S+) \\\n\s+-H '[^']*' -d '(.*)'\n", self.greeting)


def read_until(process: subprocess.Popen[str], marker: str) -> str:
    """The output up to a line with the marker."""
    assert process.stdout is not None
    text = ""
    give_up = time.monotonic() + PATIENCE_S
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while marker not in text:
            assert time.monotonic() < give_up, text
            if selector.select(1.0):
                # Past Python's own buffer, which the selector does not see.
                data = os.read(process.stdout.fileno(), 1 << 16)
                assert data, f"ended early: {text}"
                text += data.decode()
    return text


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "services"],
        cwd=ROOT,
        env={**os.environ, "GATEWAY_PORT": str(free_port())},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        greeting = read_until(process, '"k": 5')
        yield Served(process, greeting, time.monotonic() - started)
    finally:
        process.kill()
        process.communicate()


def post(url: str, body: str) -> str:
    request = urllib.request.Request(
        url, body.encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(answer.read().decode())


def test_it_says_that_it_is_ready_and_prints_three_calls(served: Served) -> None:
    assert served.greeting.startswith("Quorum is ready on http://127.0.0.1:")
    paths = [url.partition("/v1")[2] for url, _ in served.calls]
    assert paths == ["/completions", "/chat/completions", "/recommendations"]


def test_the_printed_calls_work_as_printed(served: Served) -> None:
    completion, chat, recommendation = (post(url, body) for url, body in served.calls)
    answer = json.loads(completion)
    assert answer["choices"][0]["text"]
    drafters = {d["name"] for d in answer["metrics"]["speculative_decoding"]["drafters"]}
    assert drafters == {"quorum-draft-small", "quorum-draft-wide", "ngram", "suffix"}
    assert chat.endswith("data: [DONE]\n\n")
    assert len(json.loads(recommendation)["data"]) == 5


def test_speculation_changes_no_token_of_the_shipped_models(served: Served) -> None:
    """Together and alone, with whatever the drafters have learned meanwhile."""
    url = served.calls[0][0]
    bodies = [
        json.dumps(
            {
                "prompt": f"def {name}(self):\n    ",
                "max_tokens": 40,
                "temperature": temperature,
                "seed": 7,
            }
        )
        for name in ("close", "read", "__repr__", "parse_args")
        for temperature in (0, 0.8)
    ]
    texts = [[json.loads(post(url, body))["choices"][0]["text"] for body in bodies] for _ in "ab"]
    assert texts[0] == texts[1]


def test_it_drains_and_exits_with_zero_on_sigterm(served: Served) -> None:
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(PATIENCE_S) == 0
