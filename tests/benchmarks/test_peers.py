"""The protocol of the benchmark's peers, with an engine that counts."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers.worker import Job, Prompts, Setup, converted, serve

SETUP = {
    "target": "models/target",
    "draft": None,
    "mode": "plain",
    "precision": "fp32",
    "threads": 2,
    "work": "work",
    "num_draft_tokens": 5,
}
JOB = {"prompts": [[1], [2], [3]], "max_tokens": 2, "temperature": 0, "seed": 0, "concurrency": 2}


class Counting:
    """Continues a prompt by the numbers that follow its last."""

    def __init__(self) -> None:
        self.setup: Setup | None = None
        self.batches: list[Prompts] = []
        self.is_closed = False
        self.num_missing = 0

    def load(self, setup: Setup) -> str:
        self.setup = setup
        return "counting 1.0"

    def run(self, job: Job) -> Prompts:
        self.batches += job.batches()
        num_tokens = job.max_tokens - self.num_missing
        return [[prompt[-1] + i + 1 for i in range(num_tokens)] for prompt in job.prompts]

    def close(self) -> None:
        self.is_closed = True


class Broken(Counting):
    def load(self, setup: Setup) -> str:
        raise FileNotFoundError("no such engine")


def answers(engine: Counting, *lines: object) -> list[dict[str, object]]:
    given = "".join(json.dumps(line) + "\n" for line in lines)
    written = io.StringIO()
    serve(engine, io.StringIO(given), written)
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_a_worker_loads_once_and_answers_each_job() -> None:
    engine = Counting()
    ready, first, second = answers(engine, SETUP, JOB, {**JOB, "prompts": [[7]]})
    assert ready["ready"] is True
    assert ready["version"] == "counting 1.0"
    assert isinstance(ready["seconds_to_load"], float)
    assert first["tokens"] == [[2, 3], [3, 4], [4, 5]]
    assert isinstance(first["seconds"], float)
    assert second["tokens"] == [[8, 9]]
    assert engine.batches == [[[1], [2]], [[3]], [[7]]]
    assert engine.is_closed


def test_the_setup_reaches_the_engine() -> None:
    engine = Counting()
    answers(engine, SETUP | {"mode": "draft", "draft": "models/draft", "precision": "int4"})
    assert engine.setup == Setup(
        Path("models/target"), Path("models/draft"), "draft", "int4", 2, Path("work"), 5
    )
    assert engine.setup.draft_precision == "int8"


def test_an_engine_that_cannot_load_says_why_and_ends() -> None:
    engine = Broken()
    assert answers(engine, SETUP, JOB) == [{"error": "FileNotFoundError: no such engine"}]
    assert engine.is_closed


@pytest.mark.parametrize(
    "change", [{"mode": "tree"}, {"precision": "fp8"}, {"mode": "draft"}, {"draft": "models/draft"}]
)
def test_a_setup_that_makes_no_sense_is_refused(change: dict[str, str]) -> None:
    (answer,) = answers(Counting(), SETUP | change)
    assert str(answer["error"]).startswith("ValueError: ")


def test_a_job_that_fails_is_answered_and_the_next_one_runs() -> None:
    ready, failed, done = answers(Counting(), SETUP, {"prompts": []}, JOB)
    assert ready["ready"] is True
    assert str(failed["error"]).startswith("TypeError: ")
    assert done["tokens"] == [[2, 3], [3, 4], [4, 5]]


def test_fewer_tokens_than_asked_for_are_an_error() -> None:
    engine = Counting()
    engine.num_missing = 1
    _, answer = answers(engine, SETUP, JOB)
    assert answer["error"] == "RuntimeError: 2 tokens each were asked for, [1, 1, 1] came"


def test_what_a_library_prints_does_not_reach_the_answers() -> None:
    program = (
        "import os\n"
        "from benchmarks.peers.worker import main\n"
        "from tests.benchmarks.test_peers import Counting\n"
        "class Chatty(Counting):\n"
        "    def run(self, job):\n"
        "        os.write(1, b'noise')\n"
        "        print('more noise', flush=True)\n"
        "        return super().run(job)\n"
        "main(Chatty())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        input=f"{json.dumps(SETUP)}\n{json.dumps(JOB)}\n",
        capture_output=True,
        text=True,
        check=True,
    )
    ready, answer = (json.loads(line) for line in ended.stdout.splitlines())
    assert ready["ready"] is True
    assert answer["tokens"] == [[2, 3], [3, 4], [4, 5]]
    assert "noise" in ended.stderr


def test_files_are_converted_once_for_the_same_weights(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "m", None, "plain", "fp32", 2, tmp_path / "work", 5)
    setup.target.mkdir()
    (setup.target / "config.json").write_text("{}")
    (setup.target / "model.safetensors").write_bytes(b"weights")
    calls: list[Path] = []

    def convert(out: Path) -> None:
        calls.append(out)
        (out / "model").write_text("converted")

    first = converted(setup, setup.target, "fp32", "engine", convert)
    assert converted(setup, setup.target, "fp32", "engine", convert) == first
    assert (first / "model").read_text() == "converted"
    assert len(calls) == 1
    (setup.target / "model.safetensors").write_bytes(b"others")
    assert converted(setup, setup.target, "fp32", "engine", convert) != first
    assert converted(setup, setup.target, "int8", "engine", convert) != first
    assert len(calls) == 3


def test_a_conversion_that_broke_off_is_begun_anew(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "m", None, "plain", "fp32", 2, tmp_path / "work", 5)
    setup.target.mkdir()
    (setup.target / "config.json").write_text("{}")
    (setup.target / "model.safetensors").write_bytes(b"weights")

    def broken(out: Path) -> None:
        (out / "half").touch()
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        converted(setup, setup.target, "fp32", "engine", broken)
    folder = converted(setup, setup.target, "fp32", "engine", lambda out: (out / "all").touch())
    assert os.listdir(folder) == ["all"]
