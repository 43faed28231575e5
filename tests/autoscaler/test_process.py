"""The autoscaler as a process: what it says of its settings, and of a Docker that is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.autoscaler", *arguments],
        cwd=ROOT, env={**os.environ, "BUS_URL": "memory://", **environment},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_it_shows_its_settings() -> None:
    ran = run("--print-config", AUTOSCALER_SERVICES="voter=1:2", AUTOSCALER_DRY_RUN="true")
    assert ran.returncode == 0
    assert {"AUTOSCALER_SERVICES=voter=1:2", "AUTOSCALER_DRY_RUN=True"} <= set(
        ran.stdout.splitlines()
    )


def test_without_docker_it_ends_with_a_sentence(tmp_path: Path) -> None:
    ran = run(AUTOSCALER_DOCKER_URL=f"unix://{tmp_path}/docker.sock")
    assert ran.returncode == 1
    assert ran.stderr.startswith("quorum: autoscaler quorum: AUTOSCALER_DOCKER_URL=unix://")
    assert "Traceback" not in ran.stderr


def test_a_wrong_setting_ends_it_with_a_sentence() -> None:
    ran = run(AUTOSCALER_SERVICES="voter=3:2")
    assert ran.returncode == 2
    assert ran.stderr.startswith("quorum: AUTOSCALER_SERVICES=")
